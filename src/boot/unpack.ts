import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { Fields, mib } from './binary.ts';
import { payloadOf } from './bzimage.ts';
import { unpackLz4 } from './lz4.ts';
import { packingOf, recognize, unsupportedPackingOf, type Packing } from './recognize.ts';
import { bytesSource, readAll, readRange, type ByteSource } from './source.ts';
import { BootError } from './types.ts';
import { UnpackError, UnpackerMissing } from './unpack-error.ts';
import { unpackXz } from './xz.ts';
import { unpackZstd } from './zstd.ts';

/** No kernel is bigger unpacked, in bytes; Debian's take some 60 MiB. */
export const UNPACKED_LIMIT = 2 ** 30;

export type UnpackedKernel = {
  readonly bytes: Uint8Array;
  /** why a bzImage was left packed although it was to be unpacked; one line */
  readonly note?: string;
};

/** A packed file in a packed file makes sense once: a bzImage that somebody packed. */
const MAX_DEPTH = 2;

/**
 * Unpacks a file that is wholly packed, and then, with `payload`, the kernel in a bzImage: what comes out is a vmlinux
 * or a bzImage. A bzImage with a payload that cannot be unpacked on this host comes out as it is, with a note.
 * @throws BootError: EKERNEL_PACKED for damaged data and for what unpacks to more than {@link UNPACKED_LIMIT},
 *   EKERNEL_UNSUPPORTED where the host lacks the tool
 */
export async function unpackKernel(source: ByteSource, payload: boolean, depth = 0): Promise<UnpackedKernel> {
  const { name } = source;
  if (source.size > UNPACKED_LIMIT) {
    throw new BootError('EKERNEL_PACKED', `${name} is no kernel: a packed file of ${mib(source.size)}`);
  }
  const file = recognize(source);
  switch (file.kind) {
    case 'elf':
      return { bytes: readAll(source) };
    case 'packed': {
      if (depth >= MAX_DEPTH) throw new BootError('EKERNEL_PACKED', `${name} is packed more than twice`);
      const bytes = await unpack(name, readAll(source), file.packing);
      return unpackKernel(bytesSource(name, bytes), payload, depth + 1);
    }
    case 'bzImage': {
      if (!payload) return { bytes: readAll(source) };
      try {
        return { bytes: await unpackPayload(source) };
      } catch (error) {
        if (!(error instanceof BootError && error.code === 'EKERNEL_UNSUPPORTED')) throw error;
        return { bytes: readAll(source), note: error.message };
      }
    }
  }
}

/** Unpacks the vmlinux in a bzImage. What follows the vmlinux itself, its relocations, stays behind it unused. */
async function unpackPayload(source: ByteSource): Promise<Uint8Array> {
  const { name } = source;
  const { offset, size } = payloadOf(source);
  const payload = readRange(source, offset, size);
  const packing = packingOf(payload);
  if (packing === undefined) {
    const what = unsupportedPackingOf(payload) ?? 'an unknown format';
    throw new BootError('EKERNEL_UNSUPPORTED', `the kernel in ${name} is packed with ${what}, left packed`);
  }
  if (size < 8)
    throw new BootError('EKERNEL_PACKED', `${name} is damaged: its packed kernel has ${size} bytes`);
  // The kernel's build appends the unpacked size for the formats that do not end with it themselves, as gzip does
  // (Linux, scripts/Makefile.lib, size_append).
  const unpackedSize = new Fields(payload).u32(size - 4);
  const data = packing === 'gzip' ? payload : payload.subarray(0, size - 4);
  const bytes = await unpack(name, data, packing, unpackedSize);
  if (recognize(bytesSource(name, bytes)).kind !== 'elf') {
    throw new BootError('EKERNEL_PACKED', `${name} is damaged: the packed kernel in it is no ELF file`);
  }
  return bytes;
}

const inflate = promisify(gunzip);

async function unpack(name: string, data: Uint8Array, packing: Packing, size?: number): Promise<Uint8Array> {
  const limit = size ?? UNPACKED_LIMIT;
  try {
    if (limit > UNPACKED_LIMIT) throw new UnpackError(`it would unpack to ${mib(limit)}`);
    const bytes = await UNPACKERS[packing](data, limit);
    if (size !== undefined && bytes.length !== size) {
      throw new UnpackError(`it unpacks to ${bytes.length} bytes, not to ${size}`);
    }
    return bytes;
  } catch (error) {
    if (error instanceof UnpackerMissing) {
      throw new BootError('EKERNEL_UNSUPPORTED', `${name} is packed with ${packing}: ${error.message}`);
    }
    if (!(error instanceof UnpackError)) throw error;
    throw new BootError(
      'EKERNEL_PACKED',
      `${name} is damaged, its ${packing} data does not unpack: ${error.message}`,
    );
  }
}

type Unpacker = (packed: Uint8Array, limit: number) => Uint8Array | Promise<Uint8Array>;

const UNPACKERS: Readonly<Record<Packing, Unpacker>> = {
  gzip: unpackGzip,
  xz: unpackXz,
  zstd: unpackZstd,
  lz4: unpackLz4,
};

async function unpackGzip(packed: Uint8Array, limit: number): Promise<Uint8Array> {
  try {
    return await inflate(packed, { maxOutputLength: Math.max(limit, 1), chunkSize: 2 ** 20 });
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const isTooMuch = 'code' in error && error.code === 'ERR_BUFFER_TOO_LARGE';
    throw new UnpackError(isTooMuch ? 'it unpacks to more than it may' : error.message);
  }
}
