import type { CpuidEntry } from '../../kvm/cpuid-entry.ts';

export type Register = 'eax' | 'ebx' | 'ecx' | 'edx';
export type Registers = { eax: number; ebx: number; ecx: number; edx: number };
type Leaf = { -readonly [key in keyof CpuidEntry]: CpuidEntry[key] };

/** KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry answers for its index only */
const SIGNIFICANT_INDEX = 1;

/** The leaves of one processor while they are being made. */
export class CpuidTable {
  #leaves: Leaf[];

  constructor(entries: readonly CpuidEntry[]) {
    this.#leaves = entries.map((entry) => ({ ...entry }));
  }

  /** The leaf as CPUID finds it; to be changed in place. */
  find(leaf: number, index = 0): Registers | undefined {
    return this.#leaves.find(
      (entry) =>
        entry.function === leaf && ((entry.flags & SIGNIFICANT_INDEX) === 0 || entry.index === index),
    );
  }

  /** All that there is of a leaf by index, without the subleaves that are not told apart. */
  subleaves(leaf: number): (Registers & { readonly index: number })[] {
    return this.#leaves.filter((entry) => entry.function === leaf && (entry.flags & SIGNIFICANT_INDEX) !== 0);
  }

  /** Puts a leaf without subleaves in the place of what was there. */
  set(leaf: number, registers: Partial<Registers>): void {
    this.remove(leaf);
    this.#leaves.push({ function: leaf, index: 0, flags: 0, ...ZERO, ...registers });
  }

  /** Puts subleaves from 0 on in the place of what was there. */
  setSubleaves(leaf: number, subleaves: readonly Partial<Registers>[]): void {
    this.remove(leaf);
    subleaves.forEach((registers, index) => {
      this.#leaves.push({ function: leaf, index, flags: SIGNIFICANT_INDEX, ...ZERO, ...registers });
    });
  }

  /** Leaves zeros of what there is of a leaf. */
  clear(leaf: number): void {
    const first = this.#leaves.find((entry) => entry.function === leaf);
    if (first === undefined) return;
    this.remove(leaf);
    this.#leaves.push({ ...first, index: 0, ...ZERO });
  }

  /** Takes a leaf out, or one of its subleaves; the guest reads zeros then. */
  remove(leaf: number, index?: number): void {
    this.#leaves = this.#leaves.filter(
      (entry) => entry.function !== leaf || (index !== undefined && entry.index !== index),
    );
  }

  /** highest basic leaf */
  get maxBasic(): number {
    return this.find(0)?.eax ?? 0;
  }

  /** highest extended leaf, 0 where there are none */
  get maxExtended(): number {
    return this.find(0x8000_0000)?.eax ?? 0;
  }

  entries(): CpuidEntry[] {
    return [...this.#leaves].sort((a, b) => a.function - b.function || a.index - b.index);
  }
}

const ZERO: Registers = { eax: 0, ebx: 0, ecx: 0, edx: 0 };

/** `value` with the bits `low` to `high` replaced; unsigned. @throws RangeError where `field` does not fit them */
export function withBits(value: number, high: number, low: number, field: number): number {
  const width = 2 ** (high - low + 1);
  if (!(Number.isInteger(field) && field >= 0 && field < width)) {
    throw new RangeError(`CPUID: ${field} does not fit bits ${high} to ${low}`);
  }
  const mask = ((width - 1) * 2 ** low) >>> 0;
  return ((value & ~mask) | (field * 2 ** low)) >>> 0;
}

/** Bits that count `count` things from 0 on: 0 for one, 2 for three and four. */
export const bitsFor = (count: number): number => Math.ceil(Math.log2(count));

export type Vendor = 'intel' | 'amd' | 'other';

export function vendorOf(table: CpuidTable): Vendor {
  const { ebx, ecx, edx } = table.find(0) ?? ZERO;
  const name = Buffer.from(new Uint32Array([ebx, edx, ecx]).buffer).toString('latin1');
  if (name === 'GenuineIntel') return 'intel';
  // Hygon's processors are AMD's Zen, and describe themselves the same way.
  if (name === 'AuthenticAMD' || name === 'HygonGenuine') return 'amd';
  return 'other';
}
