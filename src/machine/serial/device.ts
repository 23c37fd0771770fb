import type { AccessSize, Bus, IrqLine, RegionHandle } from '../../kvm/bus.ts';
import { PORT } from '../../boot/layout.ts';
import { InputQueue } from './input-queue.ts';
import { FCR, FIFO_SIZE, IER, IER_MASK, IIR, LCR, LSR, MCR, MCR_MASK, MSR } from './registers.ts';
import { REG, REGISTER_COUNT, TRIGGER_LEVELS } from './registers.ts';
import { checkSerialState, type SerialState } from './state.ts';

/** Most bytes of host input that wait for the guest. */
export const INPUT_LIMIT = 64 * 1024;

/** Output is handed over at the latest when this many bytes have come together. */
const OUTPUT_BATCH = 32 * 1024;

/**
 * A driver's interrupt handler loops until IIR says that nothing is pending, and a UART without a baud rate has
 * always something: Linux gives up after 512 rounds ("too much work for irq"). So after this many reports in a row
 * the line falls silent until the handler has left, or for {@link QUIET_MS} where it does not look.
 */
const BUSY_LIMIT = 128;
const QUIET_MS = 1;

/**
 * Input waits for the guest to raise RTS: a driver that sets the port up throws away what came before. A small kernel
 * without modem control shows that it listens by reading the line status over and over without writing anything, so
 * often between two looks.
 */
const POLLING_READS = 64;
const POLLING_LOOK_MS = 250;

export type SerialOptions = {
  readonly bus: Bus;
  readonly irq: IrqLine;
  /**
   * Takes what the guest has sent; called about once per turn of the event loop, and the bytes are the callee's to
   * keep. The UART transmits infinitely fast and holds nothing back: bounding what piles up is the callee's
   * business. Must not throw.
   */
  readonly output: (bytes: Uint8Array) => void;
  /** in counters and messages; default `serial` */
  readonly name?: string;
  /** first port; default COM1 */
  readonly base?: number;
};

/**
 * A 16550A UART without a baud rate, connected to a ready null modem: CTS, DSR and DCD are always on.
 *
 * What makes the guest wait is chosen for the polled console, LSR reads and THR writes, which never do:
 * - LSR is a plain shadow. It is always right, because all that can clear its bits is trapped (RBR and IIR reads,
 *   FCR writes), and THRE and TEMT are always set. The price: the device does not see LSR reads, so an overrun is
 *   cleared by the next read of RBR, or of IIR after it was identified there.
 * - RBR and IIR reads have side effects that must match the value returned exactly, or an interrupt is lost
 *   between the two: trapped.
 * - IER, LCR, MCR, SCR and the divisor latch are read back by probes after a posted write: ordered. So is MSR,
 *   whose change bits come from MCR writes alone, so that consuming them late loses none.
 */
export class Serial {
  readonly #name: string;
  readonly #irq: IrqLine;
  readonly #output: (bytes: Uint8Array) => void;
  readonly #region: RegionHandle;
  readonly #input = new InputQueue(INPUT_LIMIT);
  readonly #sent = new Uint8Array(OUTPUT_BATCH);
  #sentLength = 0;

  #ier = 0;
  #lcr = 0;
  #mcr = 0;
  #scr = 0;
  #divisor = 0;
  #fcr = 0;
  #received: number[] = [];
  #overrun: SerialState['overrun'] = 'none';
  #modemDelta = 0;
  #threPending = false;
  /** Whether the guest has ever asked to send. */
  #rtsSeen = false;
  /** It has not, but polls for input: the host sends anyway. */
  #unprompted = false;
  #look: NodeJS.Timeout | undefined;
  /** reads and writes at the last look */
  #lookedReads = 0;
  #lookedWrites = 0;
  #writes = 0;

  /** Characters are on their way out; becomes {@link #threPending} in {@link #advance}. */
  #transmitting = false;
  /** IIR reads in a row that reported something */
  #reports = 0;
  #scheduled = false;
  #quiet: NodeJS.Timeout | undefined;
  #closed = false;

  constructor({ bus, irq, output, name = 'serial', base = PORT.com1 }: SerialOptions) {
    this.#name = name;
    this.#irq = irq;
    this.#output = output;
    this.#region = bus.add({
      name,
      space: 'pio',
      base,
      size: REGISTER_COUNT,
      reads: ['trap', 'ordered', 'trap', 'ordered', 'ordered', 'shadow', 'consume', 'ordered'],
      writes: ['posted', 'posted', 'trap', 'posted', 'posted', 'ignore', 'ignore', 'posted'],
      read: (offset, size) => this.#read(offset, size),
      write: (offset, size, value) => this.#write(offset, size, value),
      consumed: (offset, size) => {
        if (offset <= REG.msr && offset + size > REG.msr) this.#clearModemDelta();
      },
    });
    this.#update();
  }

  /** Bytes that {@link input} would take now. */
  get inputRoom(): number {
    return this.#closed ? 0 : this.#input.room;
  }

  /**
   * Sends `bytes` to the guest, all or nothing; resolves once its FIFO has taken them, which may be never. Rejects
   * with a RangeError where they are more than {@link inputRoom}, and when the port is closed.
   */
  input(bytes: Uint8Array): Promise<void> {
    if (this.#closed) return Promise.reject(new Error(`${this.#name} is closed`));
    const taken = this.#input.push(bytes);
    // Who does not wait for the outcome must not be ended by it as an unhandled rejection.
    taken.catch(() => undefined);
    this.#watchPolling();
    this.#schedule();
    return taken;
  }

  /** Master reset. What the host has queued stays on the wire. */
  reset(): void {
    this.#ier = this.#lcr = this.#mcr = this.#scr = this.#divisor = this.#fcr = 0;
    this.#received = [];
    this.#overrun = 'none';
    this.#modemDelta = 0;
    this.#threPending = this.#transmitting = this.#rtsSeen = this.#unprompted = false;
    this.#reports = 0;
    this.#update();
    this.#schedule();
  }

  save(): SerialState {
    return {
      ier: this.#ier,
      lcr: this.#lcr,
      mcr: this.#mcr,
      scr: this.#scr,
      divisor: this.#divisor,
      fcr: this.#fcr,
      received: [...this.#received],
      overrun: this.#overrun,
      modemDelta: this.#modemDelta,
      threPending: this.#threPending || this.#transmitting,
      rtsSeen: this.#rtsSeen,
    };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    const state = checkSerialState(this.#name, data);
    this.#ier = state.ier;
    this.#lcr = state.lcr;
    this.#mcr = state.mcr;
    this.#scr = state.scr;
    this.#divisor = state.divisor;
    this.#fcr = state.fcr;
    this.#received = [...state.received];
    this.#overrun = state.overrun;
    this.#modemDelta = state.modemDelta;
    this.#threPending = state.threPending;
    this.#rtsSeen = state.rtsSeen;
    this.#transmitting = false;
    this.#reports = 0;
    this.#update();
    this.#schedule();
  }

  /** Hands out the last output, takes the port off the bus and rejects input that was not taken. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#region.remove();
    clearTimeout(this.#quiet);
    clearTimeout(this.#look);
    this.#flush();
    this.#input.clear(new Error(`${this.#name} is closed`));
  }

  #read(offset: number, size: AccessSize): number {
    let value = 0;
    for (let i = 0; i < size; i++) value += this.#readRegister(offset + i) * 2 ** (8 * i);
    return value;
  }

  #readRegister(register: number): number {
    switch (register) {
      case REG.data:
        return this.#lcr & LCR.dlab ? this.#divisor & 0xff : this.#readReceived();
      case REG.iirFcr:
        return this.#identify();
      case REG.msr: {
        const msr = this.#region.shadow[REG.msr]!;
        this.#clearModemDelta();
        return msr;
      }
      default:
        return this.#region.shadow[register] ?? 0xff;
    }
  }

  #write(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) this.#writeRegister(offset + i, (value >>> (8 * i)) & 0xff);
  }

  #writeRegister(register: number, value: number): void {
    this.#writes++;
    switch (register) {
      case REG.data:
        if (this.#lcr & LCR.dlab) this.#divisor = (this.#divisor & 0xff00) | value;
        else this.#transmit(value);
        return;
      case REG.ier:
        if (this.#lcr & LCR.dlab) this.#divisor = (this.#divisor & 0x00ff) | (value << 8);
        else this.#writeIer(value & IER_MASK);
        break;
      case REG.iirFcr:
        this.#writeFcr(value);
        break;
      case REG.lcr:
        this.#lcr = value;
        break;
      case REG.mcr:
        this.#writeMcr(value & MCR_MASK);
        break;
      case REG.scr:
        this.#scr = value;
        break;
      default:
        return;
    }
    this.#update();
  }

  #transmit(value: number): void {
    if (this.#mcr & MCR.loop) {
      this.#receive(value);
      this.#update();
    } else {
      this.#sent[this.#sentLength++] = value;
      if (this.#sentLength === OUTPUT_BATCH) this.#flush();
    }
    // A write to THR clears its interrupt, and the line has to fall for the next one to be an edge.
    if (this.#threPending) {
      this.#threPending = false;
      this.#update();
    }
    this.#transmitting = true;
    this.#schedule();
  }

  #writeIer(value: number): void {
    // Enabling the interrupt while THR is empty, as it always is, raises it again: drivers start sending so.
    if (value & ~this.#ier & IER.thre) this.#threPending = true;
    this.#ier = value;
  }

  #writeFcr(value: number): void {
    // Bits other than the enable bit are programmed only where that is set (data sheet, 8.5).
    const kept = value & FCR.enable ? value & (FCR.enable | FCR.trigger) : 0;
    const toggled = ((kept ^ this.#fcr) & FCR.enable) !== 0;
    this.#fcr = kept;
    if (toggled || (kept && value & FCR.resetReceiver)) {
      this.#received = [];
      this.#schedule();
    }
  }

  #writeMcr(value: number): void {
    const before = this.#modemLines();
    this.#mcr = value;
    const after = this.#modemLines();
    const changed = before ^ after;
    if (changed & MSR.cts) this.#modemDelta |= MSR.dcts;
    if (changed & MSR.dsr) this.#modemDelta |= MSR.ddsr;
    if (before & ~after & MSR.ri) this.#modemDelta |= MSR.teri;
    if (changed & MSR.dcd) this.#modemDelta |= MSR.ddcd;
    if ((value & (MCR.rts | MCR.loop)) === MCR.rts) {
      this.#rtsSeen = true;
      this.#unprompted = false;
    }
    this.#schedule();
  }

  /** MSR bits 7-4: the modem's, or in loopback the own outputs (data sheet, 8.7). */
  #modemLines(): number {
    if (!(this.#mcr & MCR.loop)) return MSR.cts | MSR.dsr | MSR.dcd;
    return (
      (this.#mcr & MCR.rts ? MSR.cts : 0) |
      (this.#mcr & MCR.dtr ? MSR.dsr : 0) |
      (this.#mcr & MCR.out1 ? MSR.ri : 0) |
      (this.#mcr & MCR.out2 ? MSR.dcd : 0)
    );
  }

  #clearModemDelta(): void {
    if (this.#modemDelta === 0) return;
    this.#modemDelta = 0;
    this.#update();
  }

  #receive(value: number): void {
    const depth = this.#fcr & FCR.enable ? FIFO_SIZE : 1;
    if (this.#received.length < depth) {
      this.#received.push(value);
      return;
    }
    // A full FIFO keeps what it has; without FIFOs the new character takes the place of the old (data sheet, 8.4).
    if (depth === 1) this.#received[0] = value;
    this.#overrun = 'pending';
  }

  #readReceived(): number {
    const value = this.#received.shift() ?? 0;
    this.#overrun = 'none';
    this.#update();
    if (this.#received.length === 0 && this.#input.length > 0) this.#schedule();
    return value;
  }

  /** A read of IIR: names the most urgent interrupt and, where it is the transmitter's, clears it. */
  #identify(): number {
    if (this.#overrun === 'identified') this.#overrun = 'none';
    if (this.#reports < BUSY_LIMIT) this.#advance();
    const source = this.#source();
    if (source === IIR.none) {
      this.#reports = 0;
      this.#schedule();
    } else {
      this.#reports++;
    }
    if (source === IIR.thre) this.#threPending = false;
    if (source === IIR.rls) this.#overrun = 'identified';
    this.#update();
    return source | (this.#fcr & FCR.enable ? IIR.fifosEnabled : 0);
  }

  #source(): number {
    if (this.#ier & IER.rls && this.#overrun !== 'none') return IIR.rls;
    if (this.#ier & IER.rda && this.#received.length > 0) {
      // The character timeout passes at once: nothing says when the host will send more.
      const full = this.#received.length >= TRIGGER_LEVELS[this.#fcr >>> 6]!;
      return !(this.#fcr & FCR.enable) || full ? IIR.rda : IIR.timeout;
    }
    if (this.#ier & IER.thre && this.#threPending) return IIR.thre;
    if (this.#ier & IER.modem && this.#modemDelta !== 0) return IIR.modem;
    return IIR.none;
  }

  /** What happens on the wire: characters sent are gone, and characters of the host arrive. */
  #advance(): void {
    if (this.#transmitting) {
      this.#transmitting = false;
      this.#threPending = true;
    }
    // Only an empty FIFO is filled, so that a driver's receive loop comes to an end.
    if (this.#received.length === 0 && this.#hears()) {
      const depth = this.#fcr & FCR.enable ? FIFO_SIZE : 1;
      while (this.#received.length < depth && this.#input.length > 0)
        this.#received.push(this.#input.shift()!);
    }
  }

  /** While input waits for RTS, looks from time to time whether the guest polls for it. */
  #watchPolling(): void {
    if (this.#rtsSeen || this.#unprompted || this.#look !== undefined) return;
    this.#lookedReads = this.#region.reads();
    this.#lookedWrites = this.#writes;
    this.#look = setTimeout(() => {
      this.#look = undefined;
      if (this.#closed || this.#rtsSeen || this.#input.length === 0) return;
      this.#unprompted =
        this.#writes === this.#lookedWrites && this.#region.reads() - this.#lookedReads >= POLLING_READS;
      if (this.#unprompted) this.#progress();
      else this.#watchPolling();
    }, POLLING_LOOK_MS);
    this.#look.unref();
  }

  #progress(): void {
    this.#advance();
    this.#update();
  }

  /**
   * Whether the host sends: not in loopback, and only to a guest that has RTS set; one that has dropped it (flow
   * control, or the port is closed) is waited for, as a modem would.
   */
  #hears(): boolean {
    return !(this.#mcr & MCR.loop) && (this.#unprompted || (this.#mcr & MCR.rts) !== 0);
  }

  /** After all that this turn of the event loop has brought: hand over the output and let the wire move on. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (this.#closed) return;
      this.#flush();
      if (this.#reports < BUSY_LIMIT) this.#progress();
      else this.#quiet ??= setTimeout(() => this.#endQuiet(), QUIET_MS).unref();
    });
  }

  #endQuiet(): void {
    this.#quiet = undefined;
    this.#reports = 0;
    this.#progress();
  }

  #flush(): void {
    if (this.#sentLength === 0) return;
    const bytes = this.#sent.slice(0, this.#sentLength);
    this.#sentLength = 0;
    this.#output(bytes);
  }

  /** Brings the shadow and the interrupt line up to date. */
  #update(): void {
    const { shadow } = this.#region;
    const dlab = (this.#lcr & LCR.dlab) !== 0;
    shadow[REG.ier] = dlab ? this.#divisor >>> 8 : this.#ier;
    shadow[REG.lcr] = this.#lcr;
    shadow[REG.mcr] = this.#mcr;
    shadow[REG.lsr] =
      LSR.thre |
      LSR.temt |
      (this.#received.length > 0 ? LSR.dataReady : 0) |
      (this.#overrun === 'none' ? 0 : LSR.overrun);
    shadow[REG.msr] = this.#modemLines() | this.#modemDelta;
    shadow[REG.scr] = this.#scr;
    // The PC gates the interrupt with OUT2, which like all outputs is off in loopback (data sheet, 8.7).
    const open = (this.#mcr & (MCR.out2 | MCR.loop)) === MCR.out2;
    this.#irq.set(open && this.#source() !== IIR.none);
  }
}
