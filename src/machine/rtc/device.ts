import type { Bus, IrqLine, ReadMode, RegionHandle } from '../../kvm/bus.ts';
import { PORT } from '../../boot/layout.ts';
import { decodeTime, encodeTime, nextAlarm } from './calendar.ts';
import { writeChecksum, writeMemorySize } from './memory-size.ts';
import { A, B, C, CMOS_SIZE, D_VALID, INTERRUPTS, periodOf, REG, TIME_REGISTERS } from './registers.ts';
import { checkRtcState, type RtcState } from './state.ts';

/**
 * How long before a second ends UIP is set, in milliseconds. The data sheet promises 244 microseconds from a clear
 * UIP to the update; the host's clock counts milliseconds.
 */
const UPDATE_MS = 1;

/** How long reads see the time of the last look at UIP, see {@link Rtc}. */
const LATCH_MS = 5;

/** Delays of the host timer: periodic interrupts above 1 kHz coalesce, and a changed host clock is noticed. */
const MIN_DELAY_MS = 1;
const MAX_DELAY_MS = 60_000;

/** What the index port is good for: bit 7 masks NMI, of which this board has none. */
const INDEX_BITS = 0x7f;
/** in the space of indexed registers */
const REGISTERS = PORT.cmosIndex * 0x1_0000;

/** How each register is read, see {@link Rtc}. */
function readMode(register: number): ReadMode {
  if (register === REG.a || register === REG.c) return 'trap';
  return TIME_REGISTERS.includes(register) ? 'leased' : 'ordered';
}

const modulo = (value: number, by: number): number => ((value % by) + by) % by;

export type RtcOptions = {
  readonly bus: Bus;
  readonly irq: IrqLine;
  /** guest RAM in bytes, for the memory size bytes */
  readonly memory: number;
  /** host time in milliseconds since 1970; default `Date.now` */
  readonly now?: () => number;
};

/**
 * The MC146818A real-time clock with 114 bytes of CMOS RAM. It shows the host's time in UTC, plus what the guest
 * has set it off by.
 *
 * Reads of registers A and C are trapped: UIP moves on its own, and a read of C clears flags that must not change in
 * between. Flags are found when somebody looks, by comparing times; a host timer runs only while an interrupt is
 * enabled that has not happened yet.
 *
 * A guest has 244 microseconds to read the time after it has seen UIP clear, which a dozen trapped reads on a busy
 * host may exceed. So a read of register A latches the time, and reads in the next {@link LATCH_MS} see that one,
 * without a wait; a later one latches it anew.
 */
export class Rtc {
  readonly #irq: IrqLine;
  readonly #now: () => number;
  readonly #ports: RegionHandle;
  readonly #registers: RegionHandle;
  readonly #cmos = new Uint8Array(CMOS_SIZE);
  #offset = 0;
  #flags = 0;
  #flagged: number;
  #latch: { readonly at: number; readonly time: number } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running = true;

  constructor({ bus, irq, memory, now = () => Date.now() }: RtcOptions) {
    this.#irq = irq;
    this.#now = now;
    this.#flagged = now();
    this.#cmos[REG.a] = A.divider32kHz | 0x06;
    this.#cmos[REG.b] = B.hours24;
    // Equipment byte: a math coprocessor, no floppy drive, no display adapter of the classic kinds.
    this.#cmos[0x14] = 0x02;
    writeMemorySize(this.#cmos, memory);
    writeChecksum(this.#cmos);
    this.#ports = bus.add({
      name: 'rtc',
      space: 'pio',
      base: PORT.cmosIndex,
      size: 2,
      reads: 'shadow',
      writes: 'ignore',
      window: {
        index: { offset: 0, size: 1 },
        data: { offset: 1, size: 1 },
        space: 'indexed',
        base: REGISTERS,
        address: [{ mask: INDEX_BITS, shift: 0 }],
      },
    });
    // The index port is write-only.
    this.#ports.shadow[0] = 0xff;
    this.#registers = bus.add({
      name: 'rtc',
      space: 'indexed',
      base: REGISTERS,
      size: CMOS_SIZE,
      reads: Array.from({ length: CMOS_SIZE }, (_, register) => readMode(register)),
      writes: 'posted',
      order: 'own',
      read: (register) => this.#readRegister(register),
      write: (register, _size, value) => this.#writeRegister(register, value),
    });
    this.#show();
  }

  /** The chip's RESET pin: interrupts are off; time, alarm and RAM stay (data sheet, "RESET"). */
  reset(): void {
    this.#cmos[REG.b]! &= ~(B.periodic | B.alarm | B.update | B.squareWave);
    this.#flags = 0;
    this.#ports.index = 0;
    this.#changed();
    this.#update();
  }

  /** Stops the host timer; the time goes on. */
  pause(): void {
    this.#running = false;
    clearTimeout(this.#timer);
  }

  /** Goes on, and interrupts for what has fallen due. */
  resume(): void {
    this.#running = true;
    this.#advance();
    this.#update();
  }

  close(): void {
    this.pause();
    this.#ports.remove();
    this.#registers.remove();
  }

  save(): RtcState {
    return {
      index: this.#ports.index & INDEX_BITS,
      cmos: [...this.#cmos],
      offset: this.#offset,
      flags: this.#flags,
      flagged: this.#flagged,
    };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    const state = checkRtcState(data);
    this.#ports.index = state.index;
    this.#cmos.set(state.cmos);
    this.#offset = state.offset;
    this.#flags = state.flags;
    this.#flagged = state.flagged;
    this.#latch = undefined;
    this.#changed();
    this.#advance();
    this.#update();
  }

  /** A trapped read. */
  #readRegister(register: number): number {
    switch (register) {
      case REG.a:
        this.#latch = undefined;
        this.#leaseTime();
        return this.#cmos[REG.a]! | (this.#updating() ? A.updateInProgress : 0);
      case REG.c: {
        this.#advance();
        const flags = this.#flags | (this.#interrupting() ? C.interrupt : 0);
        this.#flags = 0;
        this.#update();
        return flags;
      }
      default:
        this.#leaseTime();
        return this.#cmos[register]!;
    }
  }

  /** Latches the time where it is not, and lets the guest read it until the latch is over. */
  #leaseTime(): void {
    let age = 0;
    if (!this.#stopped()) {
      encodeTime(this.#latchedTime(), this.#cmos[REG.b]!, this.#cmos);
      age = this.#now() - this.#latch!.at;
    }
    this.#show();
    // The host's clock may have moved on since the latch was looked at, or been set.
    this.#registers.lease(Math.min(Math.max(LATCH_MS - age, 0), LATCH_MS));
  }

  /** The time may read otherwise from now on. */
  #changed(): void {
    this.#registers.lease(0);
    this.#show();
  }

  #show(): void {
    this.#registers.shadow.set(this.#cmos);
    this.#registers.shadow[REG.d] = D_VALID;
  }

  #writeRegister(register: number, value: number): void {
    this.#store(register, value);
    this.#changed();
  }

  #store(register: number, value: number): void {
    switch (register) {
      case REG.a:
        this.#control(REG.a, value & ~A.updateInProgress);
        return;
      case REG.b:
        // SET going on clears UIE (data sheet, "Register B").
        this.#control(REG.b, value & B.set ? value & ~B.update : value);
        return;
      case REG.c:
      case REG.d:
        return;
      case REG.secondsAlarm:
      case REG.minutesAlarm:
      case REG.hoursAlarm:
        this.#advance();
        this.#cmos[register] = value;
        this.#update();
        return;
      default:
        if (TIME_REGISTERS.includes(register)) this.#setTime(register, value);
        else this.#cmos[register] = value;
    }
  }

  #setTime(register: number, value: number): void {
    if (this.#stopped()) {
      this.#cmos[register] = value;
      return;
    }
    this.#advance();
    encodeTime(this.#time(), this.#cmos[REG.b]!, this.#cmos);
    this.#cmos[register] = value;
    this.#start();
    this.#update();
  }

  /** Writes register A or B: what they stop freezes in the registers, what they start goes on from there. */
  #control(register: number, value: number): void {
    this.#advance();
    const wasStopped = this.#stopped();
    const wasReset = this.#dividerReset();
    if (!wasStopped) encodeTime(this.#time(), this.#cmos[REG.b]!, this.#cmos);
    this.#cmos[register] = value;
    // The first update comes half a second after the divider is let go (data sheet, "Divider Control").
    if (wasReset && !this.#dividerReset()) this.#offset += 500 - modulo(this.#time(), 1000);
    if (wasStopped && !this.#stopped()) this.#start();
    this.#flagged = this.#time();
    this.#update();
  }

  /** Takes the time from its registers, at the fraction of a second that the divider chain has reached. */
  #start(): void {
    const time = decodeTime(this.#cmos, this.#cmos[REG.b]!) + modulo(this.#time(), 1000);
    this.#offset = time - this.#now();
    this.#flagged = time;
    this.#latch = undefined;
  }

  #time(): number {
    return this.#now() + this.#offset;
  }

  /** The time of the latch, which is there and not over afterwards. */
  #latchedTime(): number {
    const at = this.#now();
    const age = this.#latch === undefined ? Infinity : at - this.#latch.at;
    if (this.#latch === undefined || age < 0 || age >= LATCH_MS) this.#latch = { at, time: this.#time() };
    return this.#latch.time;
  }

  #dividerReset(): boolean {
    return (this.#cmos[REG.a]! & A.dividerReset) === A.dividerReset;
  }

  /** Whether the time registers stand still, for the guest to set them. */
  #stopped(): boolean {
    return (this.#cmos[REG.b]! & B.set) !== 0 || this.#dividerReset();
  }

  #updating(): boolean {
    return !this.#stopped() && modulo(this.#latchedTime(), 1000) >= 1000 - UPDATE_MS;
  }

  #interrupting(): boolean {
    return (this.#flags & this.#cmos[REG.b]! & INTERRUPTS) !== 0;
  }

  /** Raises the flags of what has happened since they were looked at last. */
  #advance(): void {
    const from = this.#flagged;
    const to = this.#time();
    this.#flagged = to;
    if (to <= from) return;
    const period = periodOf(this.#cmos[REG.a]!);
    if (period !== 0 && !this.#dividerReset() && Math.floor(to / period) !== Math.floor(from / period))
      this.#flags |= C.periodic;
    if (this.#stopped() || Math.floor(to / 1000) === Math.floor(from / 1000)) return;
    this.#flags |= C.update;
    const alarm = nextAlarm(from, this.#cmos, this.#cmos[REG.b]!);
    if (alarm !== undefined && alarm <= to) this.#flags |= C.alarm;
  }

  /** Sets the interrupt line, and the host timer for the next interrupt that has not been flagged yet. */
  #update(): void {
    this.#irq.set(this.#interrupting());
    clearTimeout(this.#timer);
    if (!this.#running) return;
    const next = this.#nextInterrupt();
    if (next === Infinity) return;
    const delay = Math.min(Math.max(Math.ceil(next - this.#time()), MIN_DELAY_MS), MAX_DELAY_MS);
    this.#timer = setTimeout(() => {
      this.#advance();
      this.#update();
    }, delay).unref();
  }

  #nextInterrupt(): number {
    const from = this.#flagged;
    const waited = this.#cmos[REG.b]! & INTERRUPTS & ~this.#flags;
    const period = periodOf(this.#cmos[REG.a]!);
    let next = Infinity;
    if (waited & C.periodic && period !== 0 && !this.#dividerReset())
      next = (Math.floor(from / period) + 1) * period;
    if (this.#stopped()) return next;
    if (waited & C.update) next = Math.min(next, (Math.floor(from / 1000) + 1) * 1000);
    if (waited & C.alarm) next = Math.min(next, nextAlarm(from, this.#cmos, this.#cmos[REG.b]!) ?? Infinity);
    return next;
  }
}
