import type { MessageSink, MessageSource } from '../../kvm/notify.ts';
import type { BarRegion } from '../../virtio/pci-function.ts';
import { RegisterImage } from '../../virtio/register-image.ts';
import { MSIX } from './registers.ts';

/** MSI-X of one function (PCI Local Bus Specification 3.0, 6.8.2): its vector table, masks and pending bits. */
export class Msix {
  readonly regions: readonly BarRegion[];
  readonly vectors: number;
  readonly #source: MessageSource;
  readonly #table: RegisterImage;
  readonly #pending: RegisterImage;
  readonly #sinks: (MessageSink | undefined)[];
  #enabled = false;
  #functionMask = false;

  constructor(
    name: string,
    options: { readonly vectors: number; readonly table: number; readonly pending: number },
    source: MessageSource,
  ) {
    const { vectors } = options;
    this.vectors = vectors;
    this.#source = source;
    this.#table = new RegisterImage(MSIX.entrySize * vectors);
    this.#pending = new RegisterImage(8 * Math.ceil(vectors / 64));
    this.#sinks = Array<MessageSink | undefined>(vectors).fill(undefined);
    this.regions = [
      {
        name: `${name} msix`,
        offset: options.table,
        image: this.#table,
        // Software that masks a vector reads the table back before it relies on it; so may writes be posted.
        reads: 'ordered',
        writes: 'posted',
        write: (offset, size, value) => this.#write(offset, size, value),
      },
      {
        name: `${name} msix pending`,
        offset: options.pending,
        image: this.#pending,
        reads: 'ordered',
        writes: 'ignore',
      },
    ];
    this.reset();
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Takes the enable and mask bits of Message Control. */
  control(value: number): void {
    const enabled = (value & MSIX.enable) !== 0;
    if (this.#enabled && !enabled) this.#release();
    this.#enabled = enabled;
    this.#functionMask = (value & MSIX.functionMask) !== 0;
    this.#update();
  }

  /** Sends a vector's message, or makes it pending where it is masked. */
  message(vector: number): void {
    if (!this.#enabled || vector >= this.vectors) return;
    if (this.#isMasked(vector)) this.#setPending(vector, true);
    else this.#sinks[vector]?.trigger();
  }

  reset(): void {
    this.#enabled = false;
    this.#functionMask = false;
    this.#release();
    this.#table.setBytes(0, new Uint8Array(this.#table.size));
    this.#pending.setBytes(0, new Uint8Array(this.#pending.size));
    for (let vector = 0; vector < this.vectors; vector++) this.#table.set32(controlOf(vector), MSIX.masked);
  }

  save(): { table: number[]; pending: number[] } {
    return { table: [...this.#table.bytes], pending: [...this.#pending.bytes] };
  }

  /** Takes what {@link save} gave, of the same size; {@link control} follows. */
  restore(state: { readonly table: readonly number[]; readonly pending: readonly number[] }): void {
    this.#table.setBytes(0, Uint8Array.from(state.table));
    this.#pending.setBytes(0, Uint8Array.from(state.pending));
  }

  /** Entries are accessed by dwords and qwords (6.8.2); what is narrower is ignored. */
  #write(offset: number, size: number, value: number): void {
    if (size !== 4 || offset % 4 !== 0) return;
    const isControl = offset % MSIX.entrySize === MSIX.entrySize - 4;
    this.#table.set32(offset, isControl ? value & MSIX.masked : value);
    this.#updateVector(Math.floor(offset / MSIX.entrySize));
  }

  #update(): void {
    for (let vector = 0; vector < this.vectors; vector++) this.#updateVector(vector);
  }

  /** A vector that can send knows where to; what was pending on it goes out. */
  #updateVector(vector: number): void {
    if (!this.#enabled || this.#isMasked(vector)) return;
    const at = MSIX.entrySize * vector;
    const sink = (this.#sinks[vector] ??= this.#source.allocate());
    sink.configure({
      addressLow: this.#table.get(at, 4),
      addressHigh: this.#table.get(at + 4, 4),
      data: this.#table.get(at + 8, 4),
    });
    if (!this.#isPending(vector)) return;
    this.#setPending(vector, false);
    sink.trigger();
  }

  #isMasked(vector: number): boolean {
    return this.#functionMask || (this.#table.get(controlOf(vector), 4) & MSIX.masked) !== 0;
  }

  #isPending(vector: number): boolean {
    return ((this.#pending.get(vector >> 3, 1) >> (vector & 7)) & 1) === 1;
  }

  #setPending(vector: number, pending: boolean): void {
    const bit = 1 << (vector & 7);
    const before = this.#pending.get(vector >> 3, 1);
    this.#pending.set8(vector >> 3, pending ? before | bit : before & ~bit);
  }

  #release(): void {
    for (const [vector, sink] of this.#sinks.entries()) {
      sink?.release();
      this.#sinks[vector] = undefined;
    }
  }
}

const controlOf = (vector: number): number => MSIX.entrySize * vector + MSIX.entrySize - 4;
