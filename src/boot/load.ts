import type { GuestMemory } from '../kvm/guest-memory.ts';
import { alignDown, alignUp, hex, mib } from './binary.ts';
import { planBzImage } from './bzimage.ts';
import { writeEntryState } from './cpu-state.ts';
import { planElf } from './elf.ts';
import {
  CMDLINE,
  E820_RAM,
  EBDA,
  HIGH_RAM,
  PVH_START_INFO,
  ZERO_PAGE,
  type E820Entry,
  type MemoryRange,
} from './layout.ts';
import type { KernelPlan } from './plan.ts';
import { pvhStartInfo } from './pvh.ts';
import { recognize } from './recognize.ts';
import type { ByteSource } from './source.ts';
import { BootError, type EntryState, type KernelFormat } from './types.ts';
import { zeroPage, type BootInfo } from './zero-page.ts';

export type LinuxOptions = {
  /** a bzImage or an ELF kernel; packed files are unpacked before, see openKernel */
  readonly kernel: ByteSource;
  /** put one behind the other, which the kernel unpacks in this order */
  readonly initrds?: readonly ByteSource[];
  readonly cmdline: string;
  /** guest-physical address of ACPI's root pointer, 0 for none */
  readonly rsdp: number;
  /** the memory map that the kernel is told; kernel and initrd go into its RAM at 1 MiB */
  readonly e820: readonly E820Entry[];
};

/** What has been put into guest memory. Ranges are guest-physical. */
export type LoadedKernel = {
  readonly format: KernelFormat;
  readonly entry: EntryState;
  /** what the kernel takes at first, with what it clears or unpacks itself into */
  readonly kernel: MemoryRange;
  readonly initrd?: MemoryRange;
};

/** The kernel's initramfs buffer format: archives start at multiples of 4. */
const INITRD_ALIGNMENT = 4;
const PAGE = 4096;

/**
 * Puts a Linux kernel with all that it needs at its start into guest memory. File content is read straight into guest
 * memory; all is checked before the first byte is written. Does not close the sources.
 * @throws BootError in one line, for files that cannot be booted or do not fit
 */
export function loadLinux(memory: GuestMemory, options: LinuxOptions): LoadedKernel {
  const { kernel, initrds = [] } = options;
  const plan = planKernel(kernel);
  const cmdline = encodeCmdline(kernel.name, options.cmdline, plan.cmdlineLimit);
  const room = findRoom(memory, options.e820);
  if (plan.end > room.base + room.size) {
    throw new BootError(
      'ENO_ROOM',
      `${kernel.name} does not fit: it needs memory up to ${mib(plan.end)}, the VM's ends at ${end(room)}`,
    );
  }
  const initrd = placeInitrds(kernel.name, plan, initrds, room);

  for (const { base, size, offset, fileSize } of plan.segments) {
    readInto(memory, base, kernel, offset, fileSize);
    clear(memory, base + fileSize, size - fileSize);
  }
  if (initrd !== undefined) loadInitrds(memory, initrd.base, initrds);
  memory.write(CMDLINE, cmdline);
  const info: BootInfo = {
    cmdline: { base: CMDLINE, size: cmdline.length - 1 },
    ...(initrd && { initrd }),
    rsdp: options.rsdp,
    e820: options.e820,
  };
  if (plan.format === 'pvh') memory.write(PVH_START_INFO, pvhStartInfo(info));
  else memory.write(ZERO_PAGE, zeroPage(info, plan.setupHeader, plan.start));

  return {
    format: plan.format,
    entry: writeEntryState(memory, plan.format === 'pvh' ? 'protected' : 'long', plan.entry),
    kernel: { base: plan.start, size: plan.end - plan.start },
    ...(initrd && { initrd }),
  };
}

function planKernel(kernel: ByteSource): KernelPlan {
  const file = recognize(kernel);
  switch (file.kind) {
    case 'elf':
      return planElf(kernel);
    case 'bzImage':
      return planBzImage(kernel);
    case 'packed':
      throw new BootError(
        'EKERNEL_PACKED',
        `${kernel.name} is packed with ${file.packing} and has to be unpacked`,
      );
  }
}

/** The command line with its NUL. */
function encodeCmdline(kernelName: string, cmdline: string, limit: number): Uint8Array {
  const bytes = new TextEncoder().encode(`${cmdline}\0`);
  if (bytes.indexOf(0) !== bytes.length - 1) {
    throw new BootError('ECMDLINE', 'the kernel command line has a NUL character in it');
  }
  if (bytes.length - 1 > limit) {
    throw new BootError(
      'ECMDLINE',
      `the kernel command line has ${bytes.length - 1} bytes, ${kernelName} takes at most ${limit}`,
    );
  }
  return bytes;
}

/** The RAM for kernel and initrd: the piece that starts at or below 1 MiB. */
function findRoom(memory: GuestMemory, e820: readonly E820Entry[]): MemoryRange {
  const entry = e820.find(
    ({ base, size, type }) => type === E820_RAM && base <= HIGH_RAM && base + size > HIGH_RAM,
  );
  if (entry === undefined || !memory.contains(0, EBDA)) {
    throw new BootError('ENO_ROOM', 'the VM has too little memory: a kernel needs RAM above the first MiB');
  }
  // A memory map that tells of more than there is would be an error of the machine's, not of a file.
  if (!memory.contains(entry.base, entry.size))
    throw new RangeError('the memory map names RAM that is not there');
  return entry;
}

/** Where the initrds go: as high as the kernel takes them, from a page's start, behind the kernel. */
function placeInitrds(
  kernelName: string,
  plan: KernelPlan,
  initrds: readonly ByteSource[],
  room: MemoryRange,
): MemoryRange | undefined {
  if (initrds.length === 0) return undefined;
  for (const { name, size } of initrds) {
    if (size === 0) throw new BootError('EINITRD', `initrd ${name} is empty`);
  }
  const size = initrds.reduce((sum, initrd) => alignUp(sum, INITRD_ALIGNMENT) + initrd.size, 0);
  const names = initrds.map(({ name }) => name).join(', ');
  const limit = Math.min(plan.initrdLimit, room.base + room.size);
  const base = alignDown(limit - size, PAGE);
  // Both protocols have 32 bits for the size; it cannot be reached below the hole.
  if (base < plan.end) {
    throw new BootError(
      'ENO_ROOM',
      `initrd ${names} does not fit: ${mib(size)} between ${kernelName}, which ends at ${hex(plan.end)}, ` +
        `and ${limit < room.base + room.size ? "that kernel's limit for it" : "the VM's end of memory"}, ${hex(limit)}`,
    );
  }
  return { base, size };
}

function loadInitrds(memory: GuestMemory, base: number, initrds: readonly ByteSource[]): void {
  let at = base;
  for (const initrd of initrds) {
    const start = alignUp(at, INITRD_ALIGNMENT);
    clear(memory, at, start - at);
    readInto(memory, start, initrd, 0, initrd.size);
    at = start + initrd.size;
  }
}

/** Reads a part of a file straight into guest memory. */
function readInto(
  memory: GuestMemory,
  base: number,
  source: ByteSource,
  offset: number,
  length: number,
): void {
  let at = offset;
  for (const slice of memory.slices(base, length)) {
    source.read(at, slice);
    at += slice.length;
  }
}

function clear(memory: GuestMemory, base: number, length: number): void {
  if (length > 0) memory.fill(base, length);
}

function end(range: MemoryRange): string {
  return `${Math.floor((range.base + range.size) / 2 ** 20)} MiB`;
}
