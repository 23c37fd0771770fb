import { BootError } from './types.ts';
import { readRange, type ByteSource } from './source.ts';

/** How a whole file, or the payload of a bzImage, is compressed. */
export type Packing = 'gzip' | 'xz' | 'zstd' | 'lz4';

/** What a file is by its content. */
export type FileKind =
  | { readonly kind: 'elf' }
  | { readonly kind: 'bzImage' }
  | { readonly kind: 'packed'; readonly packing: Packing };

type Magic<T> = { readonly offset: number; readonly bytes: readonly number[]; readonly what: T };

const PACKINGS: readonly Magic<Packing>[] = [
  { offset: 0, bytes: [0x1f, 0x8b], what: 'gzip' },
  { offset: 0, bytes: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], what: 'xz' },
  { offset: 0, bytes: [0x28, 0xb5, 0x2f, 0xfd], what: 'zstd' },
  // legacy frame, what kernels use, and the present one, what the lz4 tool makes by default
  { offset: 0, bytes: [0x02, 0x21, 0x4c, 0x18], what: 'lz4' },
  { offset: 0, bytes: [0x04, 0x22, 0x4d, 0x18], what: 'lz4' },
];

/** Compressions that kernels may use and that are not unpacked here. */
const UNSUPPORTED: readonly Magic<string>[] = [
  { offset: 0, bytes: [0x42, 0x5a, 0x68], what: 'bzip2' },
  { offset: 0, bytes: [0x5d, 0x00, 0x00], what: 'lzma' },
  { offset: 0, bytes: [0x89, 0x4c, 0x5a, 0x4f], what: 'lzo' },
];

const FOREIGN: readonly Magic<string>[] = [
  { offset: 0x38, bytes: [0x41, 0x52, 0x4d, 0x64], what: 'an arm64 kernel Image' },
  { offset: 0x38, bytes: [0x52, 0x53, 0x43, 0x05], what: 'a RISC-V kernel Image' },
  { offset: 0x04, bytes: [0x7a, 0x69, 0x6d, 0x67], what: 'an EFI zboot image' },
  { offset: 0x00, bytes: [0x27, 0x05, 0x19, 0x56], what: 'a U-Boot image' },
];

/** The compression that `head` begins with, if any of ours. */
export function packingOf(head: Uint8Array): Packing | undefined {
  return find(PACKINGS, head);
}

/** The name of a compression that is known but not unpacked here. */
export function unsupportedPackingOf(head: Uint8Array): string | undefined {
  return find(UNSUPPORTED, head);
}

/**
 * Tells what a kernel file is from its first bytes.
 * @throws BootError for what is no x86 kernel, saying what it is instead
 */
export function recognize(source: ByteSource): FileKind {
  const { name, size } = source;
  if (size === 0) throw new BootError('EKERNEL_FORMAT', `${name} is no kernel: the file is empty`);
  const head = readRange(source, 0, Math.min(size, 0x210));
  if (find(ELF, head)) return { kind: 'elf' };
  const packing = packingOf(head);
  if (packing !== undefined) return { kind: 'packed', packing };
  if (find(BOOT_FLAG, head) && find(SETUP_HEADER, head)) return { kind: 'bzImage' };

  const unsupported = unsupportedPackingOf(head);
  if (unsupported !== undefined) {
    const known = PACKINGS.map(({ what }) => what).filter((what, i, all) => all.indexOf(what) === i);
    throw new BootError(
      'EKERNEL_UNSUPPORTED',
      `${name} is packed with ${unsupported}, which is not supported (${known.join(', ')} are)`,
    );
  }
  const foreign = find(FOREIGN, head);
  if (foreign !== undefined) {
    throw new BootError('EKERNEL_ARCH', `${name} is ${foreign}, not a kernel for x86-64`);
  }
  if (find(EXECUTABLE, head) && size < 0x210) {
    throw new BootError('EKERNEL_TRUNCATED', `${name} is truncated: it ends inside the setup header`);
  }
  const what = isText(head) ? 'it is a text file' : 'neither a bzImage nor an ELF file, packed or not';
  throw new BootError('EKERNEL_FORMAT', `${name} is no kernel: ${what}`);
}

const ELF: readonly Magic<true>[] = [{ offset: 0, bytes: [0x7f, 0x45, 0x4c, 0x46], what: true }];
const BOOT_FLAG: readonly Magic<true>[] = [{ offset: 0x1fe, bytes: [0x55, 0xaa], what: true }];
const SETUP_HEADER: readonly Magic<true>[] = [{ offset: 0x202, bytes: [0x48, 0x64, 0x72, 0x53], what: true }];
/** "MZ": a bzImage is also an EFI application */
const EXECUTABLE: readonly Magic<true>[] = [{ offset: 0, bytes: [0x4d, 0x5a], what: true }];

function find<T>(magics: readonly Magic<T>[], head: Uint8Array): T | undefined {
  return magics.find(({ offset, bytes }) => bytes.every((byte, i) => head[offset + i] === byte))?.what;
}

function isText(head: Uint8Array): boolean {
  return head.every((byte) => byte >= 0x20 || (byte >= 0x09 && byte <= 0x0d) || byte === 0x1b);
}
