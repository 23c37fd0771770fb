/** Feature bits that no device owns (VIRTIO 1.2, 6 "Reserved Feature Bits"). */
export const VIRTIO_F = {
  indirectDesc: 28,
  eventIdx: 29,
  version1: 32,
  inOrder: 35,
} as const;

/** A set of feature bits, 0 to 63, as the two 32-bit words in which transports pass them. */
export class Features {
  readonly low: number;
  readonly high: number;

  constructor(low: number, high: number) {
    this.low = low >>> 0;
    this.high = high >>> 0;
  }

  /** @throws RangeError for a bit outside 0 to 63 */
  static of(...bits: readonly number[]): Features {
    let low = 0;
    let high = 0;
    for (const bit of bits) {
      if (!Number.isInteger(bit) || bit < 0 || bit > 63) throw new RangeError(`${bit} is no feature bit`);
      if (bit < 32) low |= 1 << bit;
      else high |= 1 << (bit - 32);
    }
    return new Features(low, high);
  }

  has(bit: number): boolean {
    return (((bit < 32 ? this.low : this.high) >>> (bit & 31)) & 1) === 1;
  }

  /** The 32 bits that a feature select register chooses: bits 0 to 31, 32 to 63, none beyond. */
  word(select: number): number {
    return select === 0 ? this.low : select === 1 ? this.high : 0;
  }

  union(other: Features): Features {
    return new Features(this.low | other.low, this.high | other.high);
  }

  isSubsetOf(other: Features): boolean {
    return (this.low & ~other.low) === 0 && (this.high & ~other.high) === 0;
  }
}
