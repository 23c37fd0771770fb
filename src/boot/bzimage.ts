import { alignUp, Fields, hex } from './binary.ts';
import { CMDLINE_LIMIT, HIGH_RAM, PCI_HOLE } from './layout.ts';
import type { KernelPlan } from './plan.ts';
import { readRange, type ByteSource } from './source.ts';
import { BootError } from './types.ts';

/**
 * The setup header (Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"): offsets in the file, which
 * are those in the zero page too.
 */
export const SETUP = {
  setupSects: 0x1f1,
  syssize: 0x1f4,
  bootFlag: 0x1fe,
  /** displacement byte of the jump at 0x200: the header ends at 0x202 plus this */
  jump: 0x201,
  header: 0x202,
  version: 0x206,
  typeOfLoader: 0x210,
  loadflags: 0x211,
  code32Start: 0x214,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  cmdLinePtr: 0x228,
  initrdAddrMax: 0x22c,
  kernelAlignment: 0x230,
  relocatableKernel: 0x234,
  xloadflags: 0x236,
  cmdlineSize: 0x238,
  payloadOffset: 0x248,
  payloadLength: 0x24c,
  setupData: 0x250,
  prefAddress: 0x258,
  initSize: 0x260,
} as const;

export const BOOT_FLAG = 0xaa55;
/** "HdrS" */
export const HEADER_MAGIC = 0x53726448;
export const LOADED_HIGH = 0x01;
export const XLF_KERNEL_64 = 0x01;
export const XLF_CAN_BE_LOADED_ABOVE_4G = 0x02;

/** Where struct boot_params has other things than the setup header again. */
const SETUP_HEADER_END = 0x290;
/** init_size is the last field needed here. */
const SETUP_HEADER_MIN_END = SETUP.initSize + 4;

/** The 64-bit entry point lies this far behind the load address (boot.rst, "64-bit Boot Protocol"). */
const ENTRY_64 = 0x200;

/** The command line's limit where the kernel does not name one: Linux' COMMAND_LINE_SIZE for x86, less the NUL. */
export const DEFAULT_CMDLINE_LIMIT = 2047;

/** Where the parts of a bzImage lie in the file; every range is inside it. */
export type BzImage = {
  readonly head: Fields;
  readonly setupHeader: Uint8Array;
  /** the protected-mode kernel */
  readonly image: { readonly offset: number; readonly size: number };
  readonly version: number;
};

/**
 * Reads the setup header of a file that {@link recognize} takes for a bzImage.
 * @throws BootError where the file is cut, or its header contradicts itself
 */
export function parseBzImage(source: ByteSource): BzImage {
  const { name } = source;
  if (source.size < SETUP_HEADER_END) {
    throw new BootError('EKERNEL_TRUNCATED', `${name} is truncated: it ends inside the setup header`);
  }
  const bytes = readRange(source, 0, SETUP_HEADER_END);
  const head = new Fields(bytes);
  const version = head.u16(SETUP.version);
  if (version < 0x206) {
    throw new BootError(
      'EKERNEL_UNSUPPORTED',
      `${name} speaks boot protocol ${protocol(version)}, at least 2.06 is needed`,
    );
  }
  if ((head.u8(SETUP.loadflags) & LOADED_HIGH) === 0) {
    throw new BootError(
      'EKERNEL_UNSUPPORTED',
      `${name} is a zImage, which is loaded low; a bzImage is needed`,
    );
  }
  const offset = ((head.u8(SETUP.setupSects) || 4) + 1) * 512;
  const size = head.u32(SETUP.syssize) * 16;
  if (size <= ENTRY_64) {
    throw new BootError(
      'EKERNEL_FORMAT',
      `${name} is damaged: its setup header tells of ${size} bytes of kernel`,
    );
  }
  if (offset + size > source.size) {
    throw new BootError(
      'EKERNEL_TRUNCATED',
      `${name} is truncated: ${offset + size} bytes by its setup header, the file has ${source.size}`,
    );
  }
  const headerEnd = SETUP.header + head.u8(SETUP.jump);
  return {
    head,
    setupHeader: bytes.slice(SETUP.setupSects, Math.min(headerEnd, SETUP_HEADER_END)),
    image: { offset, size },
    version,
  };
}

/**
 * How to load a bzImage for its 64-bit entry point.
 * @throws BootError where it has none, or where its header asks for what no machine can give
 */
export function planBzImage(source: ByteSource): KernelPlan {
  const { name } = source;
  const { head, setupHeader, image, version } = parseBzImage(source);
  // xloadflags came with protocol 2.12; the bytes meant nothing before.
  const xloadflags = version >= 0x20c ? head.u16(SETUP.xloadflags) : 0;
  if ((xloadflags & XLF_KERNEL_64) === 0) {
    throw new BootError(
      'EKERNEL_UNSUPPORTED',
      `${name} has no 64-bit entry point: it is a 32-bit kernel, or older than Linux 3.8`,
    );
  }
  if (setupHeader.length < SETUP_HEADER_MIN_END - SETUP.setupSects) {
    throw new BootError(
      'EKERNEL_FORMAT',
      `${name} is damaged: its setup header is too short for its protocol`,
    );
  }

  let base = head.u64(SETUP.prefAddress);
  if (head.u8(SETUP.relocatableKernel) !== 0) {
    const alignment = head.u32(SETUP.kernelAlignment);
    if (alignment === 0 || (alignment & (alignment - 1)) !== 0) {
      throw new BootError(
        'EKERNEL_FORMAT',
        `${name} is damaged: kernel alignment ${hex(alignment)} is no power of two`,
      );
    }
    // Lower than the preferred address is of no use: the kernel moves itself up to it (boot.rst, init_size).
    base = alignUp(Math.max(base, HIGH_RAM), alignment);
  } else if (base < HIGH_RAM) {
    throw new BootError('EKERNEL_FORMAT', `${name} is damaged: it wants to be loaded at ${hex(base)}`);
  }

  // Below 4 GiB the identity map ends in any case, and the device hole comes before that.
  const initrdLimit =
    (xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G) !== 0
      ? PCI_HOLE
      : Math.min(PCI_HOLE, head.u32(SETUP.initrdAddrMax) + 1);
  return {
    format: 'bzImage',
    segments: [{ offset: image.offset, fileSize: image.size, base, size: image.size }],
    start: base,
    end: base + Math.max(image.size, head.u32(SETUP.initSize)),
    entry: base + ENTRY_64,
    cmdlineLimit: Math.min(head.u32(SETUP.cmdlineSize), CMDLINE_LIMIT - 1),
    initrdLimit,
    setupHeader,
  };
}

/**
 * Where the packed kernel lies in a bzImage, with the four bytes of its unpacked size that the kernel's build adds.
 * @throws BootError where the header names a range outside of the kernel
 */
export function payloadOf(source: ByteSource): { offset: number; size: number } {
  const { head, image, version } = parseBzImage(source);
  const offset = head.u32(SETUP.payloadOffset);
  const size = head.u32(SETUP.payloadLength);
  // payload_offset and payload_length came with protocol 2.08.
  if (version < 0x208 || size === 0) {
    throw new BootError('EKERNEL_UNSUPPORTED', `${source.name} does not say where its packed kernel lies`);
  }
  if (offset + size > image.size) {
    throw new BootError(
      'EKERNEL_FORMAT',
      `${source.name} is damaged: the packed kernel at ${offset}, ${size} bytes, is outside of ${image.size}`,
    );
  }
  return { offset: image.offset + offset, size };
}

function protocol(version: number): string {
  return `${version >>> 8}.${(version & 0xff).toString().padStart(2, '0')}`;
}
