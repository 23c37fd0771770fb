import { HEADER_SIZE, type PacketHeader } from './protocol.ts';

/** Answers to packets of no connection that wait for room in the guest's receive queue. */
export class Refusals {
  readonly #packets: Uint8Array;
  readonly #limit: number;
  #first = 0;
  #count = 0;

  /** @param limit most that wait */
  constructor(limit: number) {
    this.#limit = limit;
    this.#packets = new Uint8Array(limit * HEADER_SIZE);
  }

  get count(): number {
    return this.#count;
  }

  get isFull(): boolean {
    return this.#count === this.#limit;
  }

  /** Appends a copy. There is room. */
  push({ bytes }: PacketHeader): void {
    this.#packets.set(bytes, ((this.#first + this.#count) % this.#limit) * HEADER_SIZE);
    this.#count++;
  }

  /** The first one; it stays where it is until the next {@link push} after {@link shift}. */
  peek(): Uint8Array {
    const at = this.#first * HEADER_SIZE;
    return this.#packets.subarray(at, at + HEADER_SIZE);
  }

  shift(): void {
    this.#first = (this.#first + 1) % this.#limit;
    this.#count--;
  }

  clear(): void {
    this.#first = this.#count = 0;
  }
}
