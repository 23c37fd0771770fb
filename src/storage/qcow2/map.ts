/** Where the contents of a disk are, through all layers. */
import { StorageError, type Disk } from '../disk.ts';
import { RawDisk } from '../raw.ts';
import { HostError } from './file-io.ts';
import { toHex } from './format.ts';
import { Extent, findExtent, KIND } from './l2-entry.ts';
import { Qcow2Disk } from './qcow2-disk.ts';
import type { Task } from './task.ts';

export type DiskExtent = {
  /** on the disk, in bytes */
  readonly start: number;
  readonly length: number;
  /** 0 is the image itself, 1 the one below it, and so on */
  readonly depth: number;
  /** the file that has it */
  readonly path: string;
  /** `none`: no layer has it; it reads as zeros, as `zero` does */
  readonly kind: 'data' | 'compressed' | 'zero' | 'none';
  /** where in that file, in bytes; of `data`, and of where `compressed` data begins */
  readonly offset?: number;
};

/** The extent from `start` on; extents that follow may be of the same kind. @throws StorageError */
export async function extentAt(disk: Disk, start: number, end = disk.size, depth = 0): Promise<DiskExtent> {
  const { path } = disk;
  if (disk instanceof RawDisk) {
    const { isData, length } = disk.extentAt(start, end);
    if (!isData) return { start, length, depth, path, kind: 'zero' };
    return { start, length, depth, path, kind: 'data', offset: start };
  }
  if (!(disk instanceof Qcow2Disk))
    return { start, length: end - start, depth, path, kind: 'data', offset: start };
  const { image, backing } = disk.parts;
  let own: Own;
  try {
    own = await image.complete(ownExtent(disk, start, end - start));
  } catch (error) {
    throw new StorageError(path, 'EIO', error instanceof HostError ? error.message : String(error));
  }
  const { kind, length, host } = own;
  if (kind === KIND.data) return { start, length, depth, path, kind: 'data', offset: host };
  if (kind === KIND.compressed) return { start, length, depth, path, kind: 'compressed', offset: host };
  if (kind === KIND.zero) return { start, length, depth, path, kind: 'zero' };
  if (backing === undefined || start >= backing.size) return { start, length, depth, path, kind: 'none' };
  return extentAt(backing.disk, start, Math.min(start + length, backing.size), depth + 1);
}

type Own = { readonly kind: number; readonly length: number; readonly host: number };

function* ownExtent(disk: Qcow2Disk, start: number, length: number): Task<Own> {
  const { image, mapping } = disk.parts;
  const { geometry } = image;
  const page = yield* mapping.pageForRead(start);
  if (page === undefined) {
    const left = geometry.l2Coverage - (start % geometry.l2Coverage);
    return { kind: KIND.unallocated, length: Math.min(length, left), host: 0 };
  }
  const extent = new Extent();
  findExtent(geometry, page.view, start, length, extent);
  if (extent.kind === KIND.invalid) throw image.corrupt(`the L2 entry for ${toHex(start)} makes no sense`);
  return { kind: extent.kind, length: extent.length, host: extent.host };
}

/** All extents of a disk, with those joined that go on in the same place. @throws StorageError */
export async function* mapDisk(disk: Disk): AsyncGenerator<DiskExtent> {
  let last: DiskExtent | undefined;
  for (let at = 0; at < disk.size;) {
    const next = await extentAt(disk, at);
    at += next.length;
    if (last !== undefined && goesOn(last, next)) last = { ...last, length: last.length + next.length };
    else {
      if (last !== undefined) yield last;
      last = next;
    }
  }
  if (last !== undefined) yield last;
}

const goesOn = (last: DiskExtent, next: DiskExtent): boolean =>
  last.kind === next.kind &&
  last.depth === next.depth &&
  last.kind !== 'compressed' &&
  (last.offset === undefined || last.offset + last.length === next.offset);
