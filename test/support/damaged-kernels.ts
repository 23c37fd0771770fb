/**
 * Damaged kernel and initrd files without end, from good ones: each is named by what was done to it, and the same
 * seed gives the same files. Made one at a time, since real kernels are big.
 */

export type DamagedFile = {
  /** e.g. `bzImage init_size=0xffffffff`; unique among the named ones of one seed */
  readonly name: string;
  readonly of: 'bzImage' | 'vmlinux' | 'initrd';
  /** the damaged copy; the good file is left alone */
  readonly make: () => Uint8Array;
};

export type GoodFiles = {
  readonly bzImage?: Uint8Array;
  readonly vmlinux?: Uint8Array;
  readonly initrd?: Uint8Array;
};

/** Pseudo-random numbers from 0 to 1 (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * First every named damage once in a fixed order, then random ones for as long as the user asks for more.
 * @param seed decides the random values in both
 */
export function* damagedKernels(files: GoodFiles, seed: number): Generator<DamagedFile, never> {
  const next = random(seed);
  if (files.bzImage) yield* damagedBzImages(files.bzImage, next);
  if (files.vmlinux) yield* damagedElfs(files.vmlinux, next);
  if (files.initrd) yield* damagedInitrds(files.initrd, next);
  const kinds = (['bzImage', 'vmlinux', 'initrd'] as const).filter((of) => files[of] !== undefined);
  if (kinds.length === 0) throw new RangeError('no file to damage');
  for (let i = 0; ; i++) {
    const of = kinds[i % kinds.length]!;
    yield randomDamage(of, files[of]!, i, next);
  }
}

/** How many named damages there are for these files; what comes behind them is random. */
export function countNamed(files: GoodFiles): number {
  let count = 0;
  for (const { name } of damagedKernels(files, 0)) {
    if (name.includes('random damage')) break;
    count++;
  }
  return count;
}

type Field = { readonly name: string; readonly offset: number; readonly size: 1 | 2 | 4 | 8 };

/** The setup header, Linux Documentation/arch/x86/boot.rst. */
const SETUP_FIELDS: readonly Field[] = [
  { name: 'setup_sects', offset: 0x1f1, size: 1 },
  { name: 'syssize', offset: 0x1f4, size: 4 },
  { name: 'boot_flag', offset: 0x1fe, size: 2 },
  { name: 'jump', offset: 0x201, size: 1 },
  { name: 'header', offset: 0x202, size: 4 },
  { name: 'version', offset: 0x206, size: 2 },
  { name: 'loadflags', offset: 0x211, size: 1 },
  { name: 'code32_start', offset: 0x214, size: 4 },
  { name: 'ramdisk_image', offset: 0x218, size: 4 },
  { name: 'initrd_addr_max', offset: 0x22c, size: 4 },
  { name: 'kernel_alignment', offset: 0x230, size: 4 },
  { name: 'relocatable_kernel', offset: 0x234, size: 1 },
  { name: 'xloadflags', offset: 0x236, size: 2 },
  { name: 'cmdline_size', offset: 0x238, size: 4 },
  { name: 'payload_offset', offset: 0x248, size: 4 },
  { name: 'payload_length', offset: 0x24c, size: 4 },
  { name: 'setup_data', offset: 0x250, size: 8 },
  { name: 'pref_address', offset: 0x258, size: 8 },
  { name: 'init_size', offset: 0x260, size: 4 },
];

const ELF_FIELDS: readonly Field[] = [
  { name: 'ei_class', offset: 4, size: 1 },
  { name: 'ei_data', offset: 5, size: 1 },
  { name: 'e_type', offset: 16, size: 2 },
  { name: 'e_machine', offset: 18, size: 2 },
  { name: 'e_entry', offset: 24, size: 8 },
  { name: 'e_phoff', offset: 32, size: 8 },
  { name: 'e_phentsize', offset: 54, size: 2 },
  { name: 'e_phnum', offset: 56, size: 2 },
];

const PROGRAM_HEADER_FIELDS: readonly Field[] = [
  { name: 'p_type', offset: 0, size: 4 },
  { name: 'p_offset', offset: 8, size: 8 },
  { name: 'p_paddr', offset: 24, size: 8 },
  { name: 'p_filesz', offset: 32, size: 8 },
  { name: 'p_memsz', offset: 40, size: 8 },
  { name: 'p_align', offset: 48, size: 8 },
];

const NOTE_FIELDS: readonly Field[] = [
  { name: 'n_namesz', offset: 0, size: 4 },
  { name: 'n_descsz', offset: 4, size: 4 },
  { name: 'n_type', offset: 8, size: 4 },
];

function* damagedBzImages(good: Uint8Array, next: () => number): Generator<DamagedFile, void> {
  const view = viewOf(good);
  const setupEnd = ((view.getUint8(0x1f1) || 4) + 1) * 512;
  const payload = setupEnd + view.getUint32(0x248, true);
  const payloadEnd = payload + view.getUint32(0x24c, true);
  yield* cuts('bzImage', good, [
    ['nothing left', 0],
    ['one byte left', 1],
    ['before the setup header', 0x1f1],
    ['behind the boot flag', 0x200],
    ['behind the magic', 0x206],
    ['inside the setup header', 0x230],
    ['at the end of the setup header', 0x268],
    ['before the kernel', setupEnd],
    ['inside the entry code', setupEnd + 0x100],
    ['before the packed kernel', payload],
    ['in the middle of the packed kernel', Math.floor((payload + payloadEnd) / 2)],
    ['before the unpacked size', payloadEnd - 4],
    ['one byte too few', good.length - 1],
  ]);
  yield* badFields('bzImage', good, SETUP_FIELDS, 0, '', next);
  if (payloadEnd - payload < 16) return;
  const payloadFields: readonly Field[] = [
    { name: 'packed kernel, magic', offset: payload, size: 4 },
    { name: 'packed kernel, header', offset: payload + 4, size: 4 },
    { name: 'packed kernel, unpacked size', offset: payloadEnd - 4, size: 4 },
    { name: 'packed kernel, end', offset: payloadEnd - 8, size: 4 },
    { name: 'packed kernel, middle', offset: payload + Math.floor((payloadEnd - payload) / 2), size: 8 },
  ];
  yield* badFields('bzImage', good, payloadFields, 0, '', next);
  yield edited('bzImage', 'packed kernel all zero', good, (bytes) =>
    bytes.fill(0, payload + 16, payloadEnd - 4),
  );
}

function* damagedElfs(good: Uint8Array, next: () => number): Generator<DamagedFile, void> {
  const view = viewOf(good);
  const phoff = Number(view.getBigUint64(32, true));
  const phnum = view.getUint16(56, true);
  const headers = Array.from({ length: phnum }, (_, i) => phoff + i * 56);
  const offsetOf = (at: number): number => Number(view.getBigUint64(at + 8, true));
  const loads = headers.filter((at) => view.getUint32(at, true) === 1);
  const notes = headers.filter((at) => view.getUint32(at, true) === 4);
  yield* cuts('vmlinux', good, [
    ['nothing left', 0],
    ['magic only', 4],
    ['inside the ELF header', 40],
    ['before the program headers', phoff],
    ['inside the program headers', phoff + 60],
    ...loads.map((at, i) => [`inside segment ${i}`, offsetOf(at) + 100] as const),
    ...notes.map((at, i) => [`inside notes ${i}`, offsetOf(at) + 10] as const),
    ['one byte too few', good.length - 1],
  ]);
  yield* badFields('vmlinux', good, ELF_FIELDS, 0, '', next);
  for (const [i, at] of headers.entries()) {
    yield* badFields('vmlinux', good, PROGRAM_HEADER_FIELDS, at, ` of header ${i}`, next);
  }
  const [first, second] = loads;
  if (first !== undefined && second !== undefined) {
    const base = view.getBigUint64(first + 24, true);
    const put = (name: string, paddr: bigint): DamagedFile =>
      edited('vmlinux', name, good, (bytes) => viewOf(bytes).setBigUint64(second + 24, paddr, true));
    yield put('segments on the same address', base);
    yield put('segments overlap by one byte', base + view.getBigUint64(first + 40, true) - 1n);
    yield put('segment over the zero page', 0x7000n);
    yield put('segment over the page tables', 0x9000n);
    yield put('segment over the ACPI tables', 0xe0000n);
    yield put('segment over the first MiB', 0xfffffn);
    yield put('segment in the device hole', 0xfee0_0000n);
    yield put('segment above 4 GiB', 0x1_0000_0000n);
    yield put('segment wraps', 0xffff_ffff_ffff_f000n);
  }
  for (const [i, at] of notes.entries()) {
    for (const [j, note] of notesAt(view, offsetOf(at), Number(view.getBigUint64(at + 32, true))).entries()) {
      yield* badFields('vmlinux', good, NOTE_FIELDS, note, ` of note ${i}.${j}`, next);
    }
  }
}

function* damagedInitrds(good: Uint8Array, next: () => number): Generator<DamagedFile, void> {
  yield* cuts('initrd', good, [
    ['nothing left', 0],
    ['one byte left', 1],
    ['half of it', good.length >> 1],
    ['one byte too few', good.length - 1],
  ]);
  yield edited('initrd', 'all zero', good, (bytes) => bytes.fill(0));
  yield edited('initrd', 'all ones', good, (bytes) => bytes.fill(0xff));
  const seed = next() * 2 ** 32;
  yield edited('initrd', 'garbage', good, (bytes) => {
    const more = random(seed);
    for (let i = 0; i < bytes.length; i++) bytes[i] = more() * 256;
  });
  yield edited('initrd', 'damaged middle', good, (bytes) => flip(bytes, bytes.length >> 1, 0xff));
}

function* cuts(
  of: DamagedFile['of'],
  good: Uint8Array,
  places: readonly (readonly [string, number])[],
): Generator<DamagedFile, void> {
  for (const [where, length] of places) {
    if (length < good.length) {
      yield { name: `${of} cut: ${where}`, of, make: () => good.slice(0, Math.max(length, 0)) };
    }
  }
}

/** Every field in turn with numbers that tend to break a loader. Those that the field has already are left out. */
function* badFields(
  of: DamagedFile['of'],
  good: Uint8Array,
  fields: readonly Field[],
  base: number,
  suffix: string,
  next: () => number,
): Generator<DamagedFile, void> {
  for (const { name, offset, size } of fields) {
    const at = base + offset;
    if (at + size > good.length) continue;
    const now = readField(good, at, size);
    const all = 2n ** BigInt(8 * size) - 1n;
    const some = BigInt(Math.floor(next() * 2 ** 32)) & all;
    const values = [0n, 1n, all, all >> 1n, (now + 1n) & all, (now - 1n) & all, some];
    for (const value of new Set(values)) {
      if (value === now) continue;
      yield edited(of, `${name}${suffix}=0x${value.toString(16)}`, good, (bytes) =>
        writeField(bytes, at, size, value),
      );
    }
  }
}

/** One to eight changes somewhere, most of them near the start, where the headers are. */
function randomDamage(of: DamagedFile['of'], good: Uint8Array, i: number, next: () => number): DamagedFile {
  const changes = Array.from({ length: 1 + Math.floor(next() * 8) }, () => {
    const range = next() < 0.7 ? Math.min(good.length, 0x400) : good.length;
    return { at: Math.floor(next() * range), mask: 1 + Math.floor(next() * 255) };
  });
  const length = next() < 0.1 ? Math.floor(next() * good.length) : good.length;
  return {
    name: `${of} random damage ${i}`,
    of,
    make: () => {
      const bytes = good.slice();
      for (const { at, mask } of changes) flip(bytes, at, mask);
      return bytes.subarray(0, length);
    },
  };
}

/** Offsets of the notes in a note segment. */
function notesAt(view: DataView, start: number, size: number): number[] {
  const found: number[] = [];
  for (let at = start; at + 12 <= start + size && at + 12 <= view.byteLength;) {
    found.push(at);
    at += 12 + up4(view.getUint32(at, true)) + up4(view.getUint32(at + 4, true));
  }
  return found;
}

function up4(size: number): number {
  return Math.ceil(size / 4) * 4;
}

function edited(
  of: DamagedFile['of'],
  name: string,
  good: Uint8Array,
  edit: (bytes: Uint8Array) => unknown,
): DamagedFile {
  return {
    name: `${of} ${name}`,
    of,
    make: () => {
      const bytes = good.slice();
      edit(bytes);
      return bytes;
    },
  };
}

function flip(bytes: Uint8Array, at: number, mask: number): void {
  if (at < bytes.length) bytes[at] = bytes[at]! ^ mask;
}

function readField(bytes: Uint8Array, at: number, size: number): bigint {
  let value = 0n;
  for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i]!);
  return value;
}

function writeField(bytes: Uint8Array, at: number, size: number, value: bigint): void {
  for (let i = 0; i < size; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
