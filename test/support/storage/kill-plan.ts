import { Random } from '../../fuzz/random.ts';

export type KillWrite = {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly flush: boolean;
  /** zeros instead, which may give clusters up */
  readonly discard: boolean;
};

/** Write number `n` of the sequence of this seed. */
export function killWrite(seed: number, n: number, size: number): KillWrite {
  const random = new Random((seed * 0x9e37_79b1 + n) >>> 0);
  const discard = random.oneIn(5);
  const length = 512 * random.between(1, random.pick([1, 8, 64, 300]));
  const offset = 512 * random.below((size - length) / 512 + 1);
  const bytes = new Uint8Array(length).fill(discard ? 0 : 1 + (n % 255));
  return { offset, bytes, flush: random.oneIn(4), discard };
}
