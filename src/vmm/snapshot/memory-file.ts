/**
 * Memory of a snapshot: sparse files as large as RAM, with each page at its place. A file that has all of it can be
 * laid over by others that have what has changed since, by extents that the state names.
 */
import { closeSync, fdatasyncSync, ftruncateSync, linkSync, openSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import { ramRanges } from '../../boot/layout.ts';
import { KvmError } from '../../kvm/errors.ts';
import { MemoryImage, PageMap } from '../../kvm/memory-image.ts';
import { GuestRam } from '../../kvm/memory.ts';
import { SnapshotError } from './error.ts';
import type { MemoryLayer } from './state-file.ts';

const MEMORY_FILE = 'memory';
/** What is kept together: more would be written than has changed, less would be more mappings than a process may have. */
const BLOCK = 64 * 1024;
const MOST_BLOCKS = 2 ** 14;
/** More layers than this are not worth their mappings. */
const MOST_LAYERS = 8;

const blockOf = (size: number): number => Math.max(BLOCK, 2 ** Math.ceil(Math.log2(size / MOST_BLOCKS)));

/** Files that RAM lies on, each where it can be linked from. */
export type MemoryBase = readonly { readonly path: string; readonly extents?: MemoryLayer['extents'] }[];

/** RAM as it was. @throws SnapshotError, KvmError */
export function openMemory(folder: string, size: number, layers: readonly MemoryLayer[]): GuestRam {
  const [lowest, ...above] = filesOf(folder, layers);
  for (const { file } of layers) checkFile(join(folder, file), size);
  let ram: GuestRam | undefined;
  try {
    ram = new GuestRam({
      ranges: ramRanges(size),
      backing: { kind: 'file', path: lowest!.path, shared: false },
    });
    for (const { path, extents } of above) ram.mapOver(path, extents);
    return ram;
  } catch (error) {
    ram?.close();
    throw error;
  }
}

/** The files that RAM lies on, the lowest first. */
export const filesOf = (
  folder: string,
  layers: readonly MemoryLayer[],
): readonly { readonly path: string; readonly extents: Float64Array }[] =>
  layers.map(({ file, extents }) => ({
    path: join(folder, file),
    extents: Float64Array.from((extents ?? []).flat()),
  }));

function checkFile(path: string, size: number): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats?.isFile() !== true) throw new SnapshotError(path, 'EDAMAGED', 'is not there');
  if (stats.size !== size)
    throw new SnapshotError(
      path,
      'EDAMAGED',
      `has ${stats.size} bytes instead of ${size}: it was cut or changed`,
    );
}

/** Memory on its way into a snapshot's folder. */
export class MemoryWriter implements Disposable {
  readonly layers: readonly MemoryLayer[];
  readonly path: string;
  readonly #fd: number;
  readonly #image: MemoryImage;
  readonly #linked: readonly string[];

  /**
   * Settles what is written, and links what is below. Nothing may run or do I/O meanwhile.
   * @param base what RAM lies on; undefined where that cannot be linked
   * @throws SnapshotError, KvmError
   */
  constructor(folder: string, ram: GuestRam, base: MemoryBase | undefined) {
    const { size } = ram.native;
    this.path = join(folder, MEMORY_FILE);
    using pageMap = new PageMap();
    const below =
      base !== undefined && base.length < MOST_LAYERS && pageMap.fd >= 0 ? link(base, folder) : undefined;
    this.#linked = (below ?? []).map(({ file }) => join(folder, file));
    const block = blockOf(size);
    let fd: number | undefined;
    try {
      this.#image = new MemoryImage(ram, { pageMap, changedOnly: below !== undefined, block });
      fd = create(this.path);
      ftruncateSync(fd, size);
      this.#fd = fd;
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      for (const path of [...this.#linked, ...(fd === undefined ? [] : [this.path])]) rmSync(path);
      throw error;
    }
    if (below === undefined) this.layers = [{ file: MEMORY_FILE }];
    else this.layers = [...below, { file: MEMORY_FILE, extents: pairs(this.#image.extents()) }];
  }

  /**
   * @param child by a process of its own, while the VM may go on from when this has returned
   * @returns bytes that were written @throws SnapshotError
   */
  async write(child: boolean): Promise<number> {
    try {
      return await this.#image.write(this.#fd, child);
    } catch (error) {
      if (error instanceof KvmError) throw writeError(this.path, error.code);
      throw error;
    }
  }

  /** Brings it to stable storage. */
  sync(): void {
    try {
      fdatasyncSync(this.#fd);
    } catch (error) {
      throw writeError(this.path, systemCode(error) ?? 'EIO');
    }
  }

  /** Nothing is left of it. */
  remove(): void {
    for (const path of [...this.#linked, this.path]) rmSync(path, { force: true });
  }

  close(): void {
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function create(path: string): number {
  try {
    return openSync(path, 'wx', 0o400);
  } catch (error) {
    throw writeError(path, systemCode(error) ?? 'EIO');
  }
}

/** Undefined where the file system has no hard links, or these are on another one. */
function link(base: MemoryBase, folder: string): MemoryLayer[] | undefined {
  const linked: string[] = [];
  try {
    return base.map(({ path, extents }, index) => {
      const file = `${MEMORY_FILE}.${index}`;
      linkSync(path, join(folder, file));
      linked.push(join(folder, file));
      return { file, ...(extents !== undefined && { extents }) };
    });
  } catch {
    for (const path of linked) rmSync(path, { force: true });
    return undefined;
  }
}

const pairs = (numbers: Float64Array): [number, number][] =>
  Array.from({ length: numbers.length / 2 }, (_, i) => [numbers[2 * i]!, numbers[2 * i + 1]!]);

function writeError(path: string, code: string): SnapshotError {
  const reason = code === 'ENOSPC' || code === 'EDQUOT' ? 'no space is left on the file system' : code;
  return new SnapshotError(
    path,
    code,
    `cannot be written: ${reason}`,
    'free some space: nothing has changed',
  );
}
