import { alignUp, Fields, hex } from './binary.ts';
import { DEFAULT_CMDLINE_LIMIT } from './bzimage.ts';
import { HIGH_RAM, PCI_HOLE } from './layout.ts';
import type { KernelPlan, Segment } from './plan.ts';
import { readRange, type ByteSource } from './source.ts';
import { BootError } from './types.ts';

/** ELF-64 object file format: offsets in the file header and in one program header. */
const EHDR = {
  class: 4,
  data: 5,
  type: 16,
  machine: 18,
  entry: 24,
  phoff: 32,
  phentsize: 54,
  phnum: 56,
  size: 64,
};
const PHDR = { type: 0, offset: 8, paddr: 24, filesz: 32, memsz: 40, align: 48, size: 56 };

const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const ET_DYN = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;

/** Linux has 5 program headers; what has hundreds is no kernel. */
const MAX_PROGRAM_HEADERS = 128;
/** Linux' notes take half a KiB. */
const MAX_NOTES = 0x10_0000;

/** "32-bit entry point into the kernel", the PVH boot ABI's note (Xen, include/public/elfnote.h) */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/** e_machine values worth a name in a message. */
const MACHINES: Readonly<Record<number, string>> = {
  3: 'i386',
  8: 'MIPS',
  20: 'PowerPC',
  21: 'PowerPC64',
  22: 's390',
  40: 'ARM',
  183: 'arm64',
  243: 'RISC-V',
  258: 'LoongArch',
};

/**
 * How to load an ELF kernel at the physical addresses that it was linked for, so no relocation is needed: entered at
 * its PVH entry point where it has one, else at its 64-bit entry point with the Linux 64-bit boot protocol.
 * @throws BootError where it is not for this machine, or damaged
 */
export function planElf(source: ByteSource): KernelPlan {
  const { name } = source;
  if (source.size < EHDR.size) {
    throw new BootError('EKERNEL_TRUNCATED', `${name} is truncated: it ends inside the ELF header`);
  }
  const header = new Fields(readRange(source, 0, EHDR.size));
  checkTarget(name, header);
  const programHeaders = readProgramHeaders(source, header);
  const segments = loadSegments(source, programHeaders);
  const common = {
    segments,
    start: segments[0]!.base,
    end: Math.max(...segments.map(({ base, size }) => base + size)),
    // The limit of Linux, which cuts what is longer without a word.
    cmdlineLimit: DEFAULT_CMDLINE_LIMIT,
    initrdLimit: PCI_HOLE,
  };
  const pvhEntry = findPvhEntry(source, programHeaders);
  const entry = pvhEntry ?? header.u64(EHDR.entry);
  if (!segments.some(({ base, size }) => entry >= base && entry < base + size)) {
    const kind = pvhEntry === undefined ? 'entry point' : 'PVH entry point';
    throw damaged(name, `its ${kind} ${hex(entry)} is in none of its segments`);
  }
  return { ...common, format: pvhEntry === undefined ? 'elf64' : 'pvh', entry };
}

function checkTarget(name: string, header: Fields): void {
  const machine = header.u16(EHDR.machine);
  if (header.u8(EHDR.data) === ELFDATA2LSB && header.u8(EHDR.class) === ELFCLASS64 && machine === EM_X86_64) {
    const type = header.u16(EHDR.type);
    if (type === ET_EXEC || type === ET_DYN) return;
    throw new BootError(
      'EKERNEL_FORMAT',
      `${name} is no kernel: an ELF file of type ${type}, not an executable`,
    );
  }
  const bits = { 1: '32-bit ', 2: '64-bit ' }[header.u8(EHDR.class)] ?? '';
  const order = header.u8(EHDR.data) === ELFDATA2LSB ? '' : 'big-endian ';
  const target = MACHINES[machine] ?? (machine === EM_X86_64 ? 'x86-64' : `machine ${machine}`);
  throw new BootError(
    'EKERNEL_ARCH',
    `${name} is a ${bits}${order}ELF file for ${target}, not 64-bit x86-64`,
  );
}

function readProgramHeaders(source: ByteSource, header: Fields): Fields[] {
  const { name } = source;
  const count = header.u16(EHDR.phnum);
  const offset = header.u64(EHDR.phoff);
  if (count === 0) throw new BootError('EKERNEL_FORMAT', `${name} is no kernel: it has no program headers`);
  if (count > MAX_PROGRAM_HEADERS || header.u16(EHDR.phentsize) !== PHDR.size) {
    throw damaged(name, `${count} program headers of ${header.u16(EHDR.phentsize)} bytes`);
  }
  if (offset + count * PHDR.size > source.size) {
    throw new BootError('EKERNEL_TRUNCATED', `${name} is truncated: it ends before its program headers`);
  }
  const bytes = readRange(source, offset, count * PHDR.size);
  return Array.from(
    { length: count },
    (_, i) => new Fields(bytes.subarray(i * PHDR.size, (i + 1) * PHDR.size)),
  );
}

/** The segments to load in ascending order of address: inside the file, above the first MiB, none over another. */
function loadSegments(source: ByteSource, programHeaders: readonly Fields[]): Segment[] {
  const { name } = source;
  const segments: Segment[] = [];
  for (const fields of programHeaders) {
    if (fields.u32(PHDR.type) !== PT_LOAD) continue;
    const offset = fields.u64(PHDR.offset);
    const fileSize = fields.u64(PHDR.filesz);
    const base = fields.u64(PHDR.paddr);
    const size = fields.u64(PHDR.memsz);
    if (size === 0 && fileSize === 0) continue;
    if (fileSize > size)
      throw damaged(name, `a segment has ${fileSize} bytes in the file for ${size} in memory`);
    if (fileSize > 0 && offset + fileSize > source.size) {
      throw new BootError(
        'EKERNEL_TRUNCATED',
        `${name} is truncated: a segment ends at ${offset + fileSize}, the file has ${source.size} bytes`,
      );
    }
    if (base < HIGH_RAM) {
      throw new BootError(
        'EKERNEL_UNSUPPORTED',
        `${name} wants a segment at ${hex(base)}, in the first MiB, which the boot structures take`,
      );
    }
    if (base + size > PCI_HOLE) {
      throw new BootError(
        'ENO_ROOM',
        `${name} wants a segment at ${hex(base)}, ${size} bytes; RAM for kernels ends at ${hex(PCI_HOLE)}`,
      );
    }
    segments.push({ offset, fileSize, base, size });
  }
  if (segments.length === 0) {
    throw new BootError('EKERNEL_FORMAT', `${name} is no kernel: it has nothing to load`);
  }
  segments.sort((a, b) => a.base - b.base);
  segments.forEach(({ base }, i) => {
    const previous = segments[i - 1];
    if (previous !== undefined && base < previous.base + previous.size) {
      throw damaged(name, `its segments at ${hex(previous.base)} and ${hex(base)} overlap`);
    }
  });
  return segments;
}

/** Goes through the notes (ELF, "Note Section") for the one that names the PVH entry point. */
function findPvhEntry(source: ByteSource, programHeaders: readonly Fields[]): number | undefined {
  const { name } = source;
  for (const fields of programHeaders) {
    if (fields.u32(PHDR.type) !== PT_NOTE) continue;
    const offset = fields.u64(PHDR.offset);
    const size = fields.u64(PHDR.filesz);
    if (offset + size > source.size) {
      throw new BootError('EKERNEL_TRUNCATED', `${name} is truncated: it ends before its notes do`);
    }
    if (size > MAX_NOTES) throw damaged(name, `${size} bytes of notes`);
    const notes = new Fields(readRange(source, offset, size));
    // GNU property notes are aligned to 8 bytes, all others to 4.
    const alignment = fields.u64(PHDR.align) === 8 ? 8 : 4;
    for (let at = 0; at + 12 <= size;) {
      const nameSize = notes.u32(at);
      const descSize = notes.u32(at + 4);
      const desc = alignUp(at + 12 + nameSize, alignment);
      if (desc + descSize > size) throw damaged(name, 'a note is longer than the notes are');
      const isXen = nameSize === 4 && notes.u32(at + 12) === 0x006e6558; // "Xen\0"
      if (isXen && notes.u32(at + 8) === XEN_ELFNOTE_PHYS32_ENTRY) {
        if (descSize === 4) return notes.u32(desc);
        if (descSize === 8) return notes.u64(desc);
        throw damaged(name, `its PVH note has ${descSize} bytes, not 4 or 8`);
      }
      at = alignUp(desc + descSize, alignment);
    }
  }
  return undefined;
}

function damaged(name: string, how: string): BootError {
  return new BootError('EKERNEL_FORMAT', `${name} is damaged: ${how}`);
}
