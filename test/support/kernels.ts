import { GuestMemory } from '../../src/kvm/guest-memory.ts';
import { KIB, MIB } from '../../src/boot/layout.ts';

/** Small kernel files, made field by field from the specifications, and memory to load them into. */

export type ElfSegment = {
  readonly paddr: number | bigint;
  readonly data: Uint8Array;
  /** default: as long as `data` */
  readonly memsz?: number | bigint;
  /** PT_LOAD by default */
  readonly type?: number;
  readonly align?: number;
};

export type ElfOptions = {
  readonly class?: number;
  readonly data?: number;
  readonly type?: number;
  readonly machine?: number;
  readonly entry?: number;
  readonly segments: readonly ElfSegment[];
  /** a PT_NOTE segment of these */
  readonly notes?: readonly Uint8Array[];
  readonly noteAlign?: number;
};

export const PT_LOAD = 1;
export const PT_NOTE = 4;

/** Where {@link buildElf} puts program headers and, without notes, how long all headers are for `count` of them. */
export const ELF_HEADER_SIZE = 64;
export const PROGRAM_HEADER_SIZE = 56;

/** An ELF-64 file: header, program headers, then the segments' bytes in order, each from a multiple of 8. */
export function buildElf(options: ElfOptions): Uint8Array {
  const notes = options.notes ? concat(options.notes) : undefined;
  const segments: ElfSegment[] = [...options.segments];
  if (notes) segments.push({ paddr: 0, data: notes, type: PT_NOTE, align: options.noteAlign ?? 4 });
  const offsets: number[] = [];
  let size = ELF_HEADER_SIZE + segments.length * PROGRAM_HEADER_SIZE;
  for (const { data } of segments) {
    size = Math.ceil(size / 8) * 8;
    offsets.push(size);
    size += data.length;
  }
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, options.class ?? 2, options.data ?? 1, 1]);
  view.setUint16(16, options.type ?? 2, true);
  view.setUint16(18, options.machine ?? 62, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(options.entry ?? Number(options.segments[0]?.paddr ?? 0)), true);
  view.setBigUint64(32, BigInt(ELF_HEADER_SIZE), true);
  view.setUint16(52, ELF_HEADER_SIZE, true);
  view.setUint16(54, PROGRAM_HEADER_SIZE, true);
  view.setUint16(56, segments.length, true);
  segments.forEach(({ paddr, data, memsz = data.length, type = PT_LOAD, align = 0x1000 }, i) => {
    const at = ELF_HEADER_SIZE + i * PROGRAM_HEADER_SIZE;
    view.setUint32(at, type, true);
    view.setUint32(at + 4, 7, true);
    view.setBigUint64(at + 8, BigInt(offsets[i]!), true);
    view.setBigUint64(at + 16, BigInt(paddr), true);
    view.setBigUint64(at + 24, BigInt(paddr), true);
    view.setBigUint64(at + 32, BigInt(data.length), true);
    view.setBigUint64(at + 40, BigInt(memsz), true);
    view.setBigUint64(at + 48, BigInt(align), true);
    bytes.set(data, offsets[i]);
  });
  return bytes;
}

/** One ELF note. @param alignment of name and descriptor: 4, or 8 in GNU property notes */
export function elfNote(name: string, type: number, desc: Uint8Array, alignment = 4): Uint8Array {
  const nameBytes = new TextEncoder().encode(`${name}\0`);
  const descAt = Math.ceil((12 + nameBytes.length) / alignment) * alignment;
  const bytes = new Uint8Array(Math.ceil((descAt + desc.length) / alignment) * alignment);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, nameBytes.length, true);
  view.setUint32(4, desc.length, true);
  view.setUint32(8, type, true);
  bytes.set(nameBytes, 12);
  bytes.set(desc, descAt);
  return bytes;
}

/** The note that makes an ELF kernel a PVH kernel. */
export function pvhNote(entry: number, size: 4 | 8 = 8): Uint8Array {
  const desc = new Uint8Array(8);
  new DataView(desc.buffer).setBigUint64(0, BigInt(entry), true);
  return elfNote('Xen', 18, desc.subarray(0, size));
}

export const KERNEL_BASE = 16 * MIB;

/** A vmlinux like Linux': two segments from 16 MiB on, the second with a bss, and the PVH note among others. */
export function sampleVmlinux(options: { readonly pvh?: boolean } = {}): Uint8Array {
  const { pvh = true } = options;
  return buildElf({
    entry: KERNEL_BASE,
    segments: [
      { paddr: KERNEL_BASE, data: pattern(3000, 1) },
      { paddr: KERNEL_BASE + 64 * KIB, data: pattern(2000, 2), memsz: 8000 },
    ],
    notes: [
      elfNote('Xen', 6, new TextEncoder().encode('linux\0')),
      elfNote('GNU', 3, pattern(20, 3)),
      ...(pvh ? [pvhNote(KERNEL_BASE + 0x850)] : []),
    ],
  });
}

export type BzImageOptions = {
  readonly version?: number;
  readonly setupSects?: number;
  readonly loadflags?: number;
  readonly xloadflags?: number;
  readonly kernelAlignment?: number;
  readonly relocatable?: boolean;
  readonly prefAddress?: number | bigint;
  readonly initSize?: number;
  readonly cmdlineSize?: number;
  readonly initrdAddrMax?: number;
  /** the packed kernel with its size behind it */
  readonly payload?: Uint8Array;
};

/** Where in the protected-mode kernel {@link buildBzImage} puts the payload. */
export const PAYLOAD_OFFSET = 0x300;

/** A bzImage with a setup header of protocol 2.15 and a protected-mode kernel of a known pattern. */
export function buildBzImage(options: BzImageOptions = {}): Uint8Array {
  const { setupSects = 3, payload = new Uint8Array(0) } = options;
  const setupSize = ((setupSects || 4) + 1) * 512;
  const imageSize = Math.ceil((PAYLOAD_OFFSET + payload.length + 0x100) / 16) * 16;
  const bytes = new Uint8Array(setupSize + imageSize);
  bytes.set(pattern(imageSize, 4), setupSize);
  bytes.set(payload, setupSize + PAYLOAD_OFFSET);
  const view = new DataView(bytes.buffer);
  bytes.set([0x4d, 0x5a]);
  view.setUint8(0x1f1, setupSects);
  view.setUint32(0x1f4, imageSize / 16, true);
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint16(0x200, 0x6aeb, true);
  bytes.set(new TextEncoder().encode('HdrS'), 0x202);
  view.setUint16(0x206, options.version ?? 0x20f, true);
  view.setUint8(0x211, options.loadflags ?? 1);
  view.setUint32(0x22c, options.initrdAddrMax ?? 0x7fffffff, true);
  view.setUint32(0x230, options.kernelAlignment ?? 2 * MIB, true);
  view.setUint8(0x234, (options.relocatable ?? true) ? 1 : 0);
  view.setUint16(0x236, options.xloadflags ?? 3, true);
  view.setUint32(0x238, options.cmdlineSize ?? 2047, true);
  view.setUint32(0x248, payload.length > 0 ? PAYLOAD_OFFSET : 0, true);
  view.setUint32(0x24c, payload.length, true);
  // what a hostile file may have here; a loader must not pass it on
  view.setBigUint64(0x250, 0x1234_5678n, true);
  view.setBigUint64(0x258, BigInt(options.prefAddress ?? KERNEL_BASE), true);
  view.setUint32(0x260, options.initSize ?? 2 * MIB, true);
  return bytes;
}

/** A packed kernel as the kernel's build puts it into a bzImage: with the unpacked size behind it. */
export function withSize(packed: Uint8Array, unpackedSize: number): Uint8Array {
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint32(0, unpackedSize, true);
  return concat([packed, size]);
}

/** An LZ4 legacy frame with literals only: valid, and made without a compressor. Blocks of 8 MiB at most. */
export function lz4Literals(bytes: Uint8Array): Uint8Array {
  const lengths: number[] = [];
  if (bytes.length >= 15) {
    let rest = bytes.length - 15;
    for (; rest >= 255; rest -= 255) lengths.push(255);
    lengths.push(rest);
  }
  const token = Math.min(bytes.length, 15) << 4;
  const block = concat([Uint8Array.of(token, ...lengths), bytes]);
  const head = new Uint8Array(8);
  new DataView(head.buffer).setUint32(0, 0x184c2102, true);
  new DataView(head.buffer).setUint32(4, block.length, true);
  return concat([head, block]);
}

/** Bytes that do not repeat soon, different for each `seed`. */
export function pattern(length: number, seed: number): Uint8Array {
  let state = seed * 0x9e3779b1;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

const GUARD = 64 * KIB;
const GUARD_BYTE = 0xa5;

/** Guest memory from 0 on with guard bytes around it, which nothing may change. */
export function guardedMemory(size: number): {
  memory: GuestMemory;
  bytes: Uint8Array;
  intact: () => boolean;
} {
  const all = new Uint8Array(GUARD + size + GUARD);
  const guards = [all.subarray(0, GUARD), all.subarray(GUARD + size)];
  for (const guard of guards) guard.fill(GUARD_BYTE);
  const bytes = all.subarray(GUARD, GUARD + size);
  return {
    memory: new GuestMemory([{ base: 0, bytes }]),
    bytes,
    intact: () => guards.every((guard) => guard.every((byte) => byte === GUARD_BYTE)),
  };
}
