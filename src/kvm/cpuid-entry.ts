/** One leaf of CPUID as KVM has it (struct kvm_cpuid_entry2); all numbers unsigned 32 bits. */
export type CpuidEntry = {
  readonly function: number;
  readonly index: number;
  /** bit 0: `index` counts */
  readonly flags: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
};

const HEADER_SIZE = 8;
const ENTRY_SIZE = 40;
const FIELDS = ['function', 'index', 'flags', 'eax', 'ebx', 'ecx', 'edx'] as const;

/** The entries of a struct kvm_cpuid2. @throws RangeError where it is cut short */
export function decodeCpuid(bytes: Uint8Array): CpuidEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const count = bytes.length < HEADER_SIZE ? 0 : view.getUint32(0, true);
  if (bytes.length !== HEADER_SIZE + count * ENTRY_SIZE) throw new RangeError('CPUID table of a wrong size');
  return Array.from({ length: count }, (_, i) => {
    const field = (n: number): number => view.getUint32(HEADER_SIZE + i * ENTRY_SIZE + 4 * n, true);
    return {
      function: field(0),
      index: field(1),
      flags: field(2),
      eax: field(3),
      ebx: field(4),
      ecx: field(5),
      edx: field(6),
    };
  });
}

/** A struct kvm_cpuid2 with the entries. */
export function encodeCpuid(entries: readonly CpuidEntry[]): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + entries.length * ENTRY_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, entries.length, true);
  entries.forEach((entry, i) => {
    FIELDS.forEach((name, n) => view.setUint32(HEADER_SIZE + i * ENTRY_SIZE + 4 * n, entry[name], true));
  });
  return bytes;
}
