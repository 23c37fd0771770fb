import type { AccessSize, Bus, IrqLine, RegionHandle } from '../../kvm/bus.ts';
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
 * Reads of the data port are trapped: the time moves on its own, and a read of register C clears flags that must
 * not change in between. Flags are found when somebody looks, by comparing times; a host timer runs only while an
 * interrupt is enabled that has not happened yet.
 *
 * A guest has 244 microseconds to read the time after it has seen UIP clear, which a dozen trapped reads on a busy
 * host may exceed. So a read of register A latches the time, and reads in the next {@link LATCH_MS} see that one.
 */
export class Rtc {
  readonly #irq: IrqLine;
  readonly #now: () => number;
  readonly #region: RegionHandle;
  readonly #cmos = new Uint8Array(CMOS_SIZE);
  #index = 0;
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
    this.#region = bus.add({
      name: 'rtc',
      space: 'pio',
      base: PORT.cmosIndex,
      size: 2,
      reads: ['shadow', 'trap'],
      writes: 'posted',
      read: (offset, size) => this.#read(offset, size),
      write: (offset, size, value) => {
        for (let i = 0; i < size; i++) this.#writePort(offset + i, (value >>> (8 * i)) & 0xff);
      },
    });
    // The index port is write-only.
    this.#region.shadow[0] = 0xff;
  }

  /** The chip's RESET pin: interrupts are off; time, alarm and RAM stay (data sheet, "RESET"). */
  reset(): void {
    this.#cmos[REG.b]! &= ~(B.periodic | B.alarm | B.update | B.squareWave);
    this.#flags = 0;
    this.#index = 0;
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
    this.#region.remove();
  }

  save(): RtcState {
    return {
      index: this.#index,
      cmos: [...this.#cmos],
      offset: this.#offset,
      flags: this.#flags,
      flagged: this.#flagged,
    };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    const state = checkRtcState(data);
    this.#index = state.index;
    this.#cmos.set(state.cmos);
    this.#offset = state.offset;
    this.#flags = state.flags;
    this.#flagged = state.flagged;
    this.#latch = undefined;
    this.#advance();
    this.#update();
  }

  #read(offset: number, size: AccessSize): number {
    let value = 0;
    for (let i = 0; i < size; i++) value |= (offset + i === 1 ? this.#readRegister() : 0xff) << (8 * i);
    return value >>> 0;
  }

  #readRegister(): number {
    switch (this.#index) {
      case REG.a:
        this.#latch = undefined;
        return this.#cmos[REG.a]! | (this.#updating() ? A.updateInProgress : 0);
      case REG.c: {
        this.#advance();
        const flags = this.#flags | (this.#interrupting() ? C.interrupt : 0);
        this.#flags = 0;
        this.#update();
        return flags;
      }
      case REG.d:
        return D_VALID;
      default:
        if (TIME_REGISTERS.includes(this.#index) && !this.#stopped())
          encodeTime(this.#latchedTime(), this.#cmos[REG.b]!, this.#cmos);
        return this.#cmos[this.#index]!;
    }
  }

  #writePort(port: number, value: number): void {
    // Bit 7 of the index port masks NMI, of which this board has none.
    if (port === 0) this.#index = value & 0x7f;
    else this.#writeRegister(this.#index, value);
  }

  #writeRegister(register: number, value: number): void {
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
