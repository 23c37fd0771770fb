import { GPE, PORT } from '../../boot/layout.ts';
import type { AccessSize, Bus, IrqLine, RegionHandle } from '../../kvm/bus.ts';
import type { PowerState } from './state.ts';

/** The events that this board has; the bits of others read as zero, in both registers. */
const EVENTS = Object.values<number>(GPE).reduce((bits, event) => bits | (1 << event), 0);

/**
 * General-purpose event block 0 (ACPI 6.4, 4.8.4.1): a status and an enable register of a byte each. As with PM1,
 * writes are trapped, because the SCI has to be low again before the guest ends the interrupt.
 */
export class GpeBlock {
  readonly #sci: IrqLine;
  readonly #region: RegionHandle;
  #state: PowerState['gpe'] = { status: 0, enable: 0 };

  constructor(bus: Bus, sci: IrqLine) {
    this.#sci = sci;
    this.#region = bus.add({
      name: 'acpi-gpe0',
      space: 'pio',
      base: PORT.gpe0,
      size: 2,
      reads: 'shadow',
      writes: 'trap',
      write: (offset, size, value) => this.#write(offset, size, value),
    });
  }

  /** Tells the guest of an event. */
  raise(event: keyof typeof GPE): void {
    this.#state.status |= 1 << GPE[event];
    this.#update();
  }

  reset(): void {
    this.restore({ status: 0, enable: 0 });
  }

  save(): PowerState['gpe'] {
    return { ...this.#state };
  }

  /** @param state checked for its form; bits that this board does not have are dropped */
  restore({ status, enable }: PowerState['gpe']): void {
    this.#state = { status: status & EVENTS, enable: enable & EVENTS };
    this.#update();
  }

  close(): void {
    this.#region.remove();
  }

  #write(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) {
      const byte = (value >>> (8 * i)) & 0xff;
      if (offset + i === 0) this.#state.status &= ~byte;
      else this.#state.enable = byte & EVENTS;
    }
    this.#update();
  }

  #update(): void {
    const { status, enable } = this.#state;
    this.#region.shadow[0] = status;
    this.#region.shadow[1] = enable;
    this.#sci.set((status & enable) !== 0);
  }
}
