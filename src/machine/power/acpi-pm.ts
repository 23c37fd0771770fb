import type { AccessSize, Bus, IrqLine, RegionHandle } from '../../kvm/bus.ts';
import { PORT, SLEEP_TYPE } from '../../boot/layout.ts';
import type { PowerState } from './state.ts';

/** PM1 status bits (ACPI 6.4, table 4.11). Enable bits lie in the same places (table 4.12). */
export const PM1 = { timer: 0x0001, global: 0x0020, powerButton: 0x0100 } as const;
/** The status bits that this board can raise; the others read as zero. */
const PM1_EVENTS = PM1.timer | PM1.global | PM1.powerButton;
/**
 * The enable bits that are kept, those of sleep button, RTC and PCI Express wake among them though their events
 * never come: ACPICA complains of an enable bit that it cannot set.
 */
const PM1_ENABLES = PM1_EVENTS | 0x0200 | 0x0400 | 0x4000;

/** PM1 control (ACPI 6.4, table 4.13). */
const CONTROL = {
  sciEnable: 0x0001,
  busMasterReload: 0x0002,
  sleepType: 0x1c00,
  sleepEnable: 0x2000,
} as const;
/** What stays of a write; SLP_EN and GBL_RLS read as zero, SCI_EN is always on: there is no SMI firmware. */
const CONTROL_KEPT = CONTROL.busMasterReload | CONTROL.sleepType;

export const PM_TIMER_HZ = 3_579_545;
const PM_TIMER_BITS = 32;
/** What the timer counts between two changes of its top bit, ten minutes. */
const HALF_PERIOD = 2 ** (PM_TIMER_BITS - 1);

export type AcpiPmOptions = {
  readonly bus: Bus;
  readonly sci: IrqLine;
  readonly onPowerOff: () => void;
};

/**
 * ACPI fixed hardware: the PM1a event and control blocks and the PM timer (ACPI 6.4, 4.8.3). Writes to the
 * event block are trapped, because the SCI is level-triggered: it has to be low again before the guest ends the
 * interrupt. Reads are plain shadows.
 */
export class AcpiPm {
  readonly #sci: IrqLine;
  readonly #onPowerOff: () => void;
  readonly #event: RegionHandle;
  readonly #control: RegionHandle;
  readonly #counter: RegionHandle;
  #state: Omit<PowerState['pm1'], 'counter'> = { status: 0, enable: 0, control: 0 };
  /** the PM timer's top bit, as last seen */
  #topBit = false;
  #timer: NodeJS.Timeout | undefined;

  constructor({ bus, sci, onPowerOff }: AcpiPmOptions) {
    this.#sci = sci;
    this.#onPowerOff = onPowerOff;
    this.#event = bus.add({
      name: 'acpi-pm1-event',
      space: 'pio',
      base: PORT.pm1aEvent,
      size: 4,
      reads: 'shadow',
      writes: 'trap',
      write: (offset, size, value) => this.#writeEvent(offset, size, value),
    });
    this.#control = bus.add({
      name: 'acpi-pm1-control',
      space: 'pio',
      base: PORT.pm1aControl,
      size: 2,
      reads: 'shadow',
      writes: 'trap',
      write: (offset, size, value) => this.#writeControl(offset, size, value),
    });
    this.#counter = bus.add({
      name: 'acpi-pm-timer',
      space: 'pio',
      base: PORT.pmTimer,
      size: 4,
      reads: 'counter',
      writes: 'ignore',
      counter: { hz: PM_TIMER_HZ, bits: PM_TIMER_BITS },
    });
    this.#update();
    this.resume();
  }

  /** Presses the power button and lets it go. */
  powerButton(): void {
    this.#state.status |= PM1.powerButton;
    this.#update();
  }

  reset(): void {
    this.#setRegisters({ status: 0, enable: 0, control: 0 });
  }

  /** Stops the host timer that watches the PM timer's top bit. */
  pause(): void {
    clearTimeout(this.#timer);
  }

  resume(): void {
    clearTimeout(this.#timer);
    const { counter } = this.#counter;
    const topBit = counter >= HALF_PERIOD;
    if (topBit !== this.#topBit) {
      this.#topBit = topBit;
      this.#state.status |= PM1.timer;
      this.#update();
    }
    const left = ((HALF_PERIOD - (counter % HALF_PERIOD)) / PM_TIMER_HZ) * 1000;
    this.#timer = setTimeout(() => this.resume(), Math.ceil(left)).unref();
  }

  close(): void {
    this.pause();
    for (const region of [this.#event, this.#control, this.#counter]) region.remove();
  }

  save(): PowerState['pm1'] {
    const { counter } = this.#counter;
    // Whoever is paused has not seen the top bit change.
    const changed = counter >= HALF_PERIOD !== this.#topBit;
    return { ...this.#state, status: this.#state.status | (changed ? PM1.timer : 0), counter };
  }

  /**
   * The PM timer goes on from where it stood.
   * @param state checked for its form; bits that this board does not have are dropped
   */
  restore(state: PowerState['pm1']): void {
    this.#counter.counter = state.counter;
    this.#topBit = state.counter >= HALF_PERIOD;
    this.#setRegisters(state);
  }

  #setRegisters(state: Omit<PowerState['pm1'], 'counter'>): void {
    this.#state = {
      status: state.status & PM1_EVENTS,
      enable: state.enable & PM1_ENABLES,
      control: state.control & CONTROL_KEPT,
    };
    this.#update();
  }

  #writeEvent(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) {
      const bits = ((value >>> (8 * i)) & 0xff) << (8 * ((offset + i) & 1));
      const kept = 0xff00 >>> (8 * ((offset + i) & 1));
      if (offset + i < 2) this.#state.status &= ~bits;
      else this.#state.enable = (this.#state.enable & kept) | (bits & PM1_ENABLES);
    }
    this.#update();
  }

  #writeControl(offset: number, size: AccessSize, value: number): void {
    const mask = (2 ** (8 * size) - 1) << (8 * offset);
    const written = value << (8 * offset);
    const control = (this.#state.control & ~mask) | (written & mask);
    this.#state.control = control & CONTROL_KEPT;
    this.#update();
    if (!(written & CONTROL.sleepEnable)) return;
    if ((control & CONTROL.sleepType) >>> 10 === SLEEP_TYPE.s5) this.#onPowerOff();
  }

  #update(): void {
    const { status, enable, control } = this.#state;
    const event = this.#event.shadow;
    event[0] = status & 0xff;
    event[1] = status >>> 8;
    event[2] = enable & 0xff;
    event[3] = enable >>> 8;
    const shown = control | CONTROL.sciEnable;
    this.#control.shadow[0] = shown & 0xff;
    this.#control.shadow[1] = shown >>> 8;
    this.#sci.set((status & enable) !== 0);
  }
}
