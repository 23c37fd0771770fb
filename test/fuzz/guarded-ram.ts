import { GuestMemory, type MemoryWindow, type PageReclaim } from '../../src/kvm/guest-memory.ts';
import type { Random } from './random.ts';

const GUARD = 64;
const GUARD_BYTE = 0xa5;
const UNTOUCHED = new Uint8Array(GUARD).fill(GUARD_BYTE);

/** Guest RAM cut at random places, each window with guards around it. */
export class GuardedRam {
  readonly memory: GuestMemory;
  readonly #backing: { readonly window: MemoryWindow; readonly bytes: Uint8Array }[] = [];

  /** @param content what RAM has in it at first, by address */
  constructor(
    random: Random,
    ranges: readonly { readonly base: number; readonly size: number }[],
    content: Uint8Array,
    reclaim?: PageReclaim,
  ) {
    for (const { base, size } of ranges) {
      const cuts = new Set([0, size]);
      for (let i = random.below(4); i > 0; i--) cuts.add(random.between(1, size - 1));
      const sorted = [...cuts].sort((a, b) => a - b);
      for (const [i, end] of sorted.slice(1).entries())
        this.#add(base + sorted[i]!, end - sorted[i]!, content);
    }
    this.memory = new GuestMemory(
      this.#backing.map(({ window }) => window),
      reclaim,
    );
  }

  #add(base: number, size: number, content: Uint8Array): void {
    const bytes = new Uint8Array(size + 2 * GUARD).fill(GUARD_BYTE);
    const window = { base, bytes: bytes.subarray(GUARD, GUARD + size) };
    window.bytes.set(content.subarray(base, base + size));
    this.#backing.push({ window, bytes });
  }

  /** Copies all of RAM into a flat image. */
  copyTo(image: Uint8Array): void {
    for (const { window } of this.#backing) image.set(window.bytes, window.base);
  }

  /** Compares RAM with an image. @throws Error at the first difference, and for a write outside RAM */
  check(image: Uint8Array): void {
    for (const { window } of this.#backing) {
      const { base, bytes } = window;
      const expected = image.subarray(base, base + bytes.length);
      if (Buffer.compare(bytes, expected) === 0) continue;
      const at = bytes.findIndex((byte, i) => byte !== expected[i]);
      throw new Error(
        `memory at 0x${(base + at).toString(16)}: ${bytes[at]!}, and it should be ${expected[at]!}`,
      );
    }
    this.checkGuards();
  }

  /** @throws Error where something was written outside RAM */
  checkGuards(): void {
    for (const { bytes } of this.#backing) {
      for (const guard of [bytes.subarray(0, GUARD), bytes.subarray(-GUARD)]) {
        if (Buffer.compare(guard, UNTOUCHED) !== 0) throw new Error('a write outside RAM');
      }
    }
  }
}
