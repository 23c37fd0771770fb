import { text, viewOf } from '../bytes.ts';
import { DIRECTORY_LIMIT, PATH_LIMIT, type FsDriver } from '../driver.ts';
import { corrupt, GuestFsError, unsupported } from '../error.ts';
import { readBytes, type ByteReader } from '../reader.ts';
import { XfsBlocks } from './blocks.ts';
import { blockEntries, shortEntries, type XfsEntry } from './directory.ts';
import { xfsRun } from './extents.ts';
import { FORMAT, readXfsInode, type XfsInode } from './inode.ts';
import { wasUnmounted } from './log.ts';
import { readXfsSuperblock, SUPERBLOCK_SIZE } from './superblock.ts';

const LINK_MAGIC = 0x5853_4c4d;
const LINK_HEADER = 56;

/** Opens XFS. What is only in its log is not seen. @throws GuestFsError */
export async function openXfs(volume: ByteReader): Promise<Xfs> {
  if (volume.size < SUPERBLOCK_SIZE) throw corrupt('the volume is too small for XFS');
  const superblock = readXfsSuperblock(await readBytes(volume, 0, SUPERBLOCK_SIZE), volume.size);
  const blocks = new XfsBlocks(volume, superblock);
  const notes: string[] = [];
  if (superblock.needsRepair) notes.push('XFS is marked as damaged');
  if (!(await wasUnmounted(blocks)))
    notes.push('XFS was in use: changes that are only in its log are missing');
  return new Xfs(blocks, notes);
}

/** @see openXfs */
export class Xfs implements FsDriver<XfsEntry, XfsInode> {
  readonly type = 'xfs';
  readonly notes: readonly string[];
  readonly #blocks: XfsBlocks;

  constructor(blocks: XfsBlocks, notes: readonly string[]) {
    this.#blocks = blocks;
    this.notes = notes;
  }

  get uuid(): string {
    return this.#blocks.superblock.uuid;
  }

  get label(): string {
    return this.#blocks.superblock.label;
  }

  root(): Promise<XfsInode> {
    return readXfsInode(this.#blocks, this.#blocks.superblock.rootInode);
  }

  node(entry: XfsEntry): Promise<XfsInode> {
    return readXfsInode(this.#blocks, entry.inode);
  }

  isNamed(entry: XfsEntry, name: string): boolean {
    return entry.name === name;
  }

  async *entries(directory: XfsInode): AsyncGenerator<readonly XfsEntry[]> {
    const { directoryBlockSize, blockSize, hasFileTypes } = this.#blocks.superblock;
    const { size, number } = directory;
    if (directory.format === FORMAT.local) {
      yield shortEntries(directory.fork.subarray(0, size), hasFileTypes);
      return;
    }
    if (size > DIRECTORY_LIMIT) throw new GuestFsError('ETOOBIG', `directory ${number} has ${size} bytes`);
    const block = new Uint8Array(directoryBlockSize);
    for (let at = 0; at + block.length <= size; at += block.length) {
      // Blocks whose names are all gone leave holes.
      if ((await xfsRun(this.#blocks, directory, at / blockSize)).block === undefined) continue;
      await this.read(directory, at, block);
      yield blockEntries(block, hasFileTypes);
    }
  }

  async read(inode: XfsInode, offset: number, target: Uint8Array): Promise<void> {
    if (inode.isRealtime) throw unsupported(`file ${inode.number} is on the realtime device of XFS`);
    const { blockSize } = this.#blocks.superblock;
    for (let done = 0; done < target.length;) {
      const skip = (offset + done) % blockSize;
      const run = await xfsRun(this.#blocks, inode, Math.floor((offset + done) / blockSize));
      const part = target.subarray(done, done + run.count * blockSize - skip);
      if (run.block === undefined) part.fill(0);
      else await this.#blocks.fill(run.block, skip, part);
      done += part.length;
    }
  }

  async link(inode: XfsInode): Promise<string> {
    const { size, number, format, fork } = inode;
    if (size === 0 || size >= PATH_LIMIT) throw corrupt(`symbolic link ${number} has ${size} bytes`);
    if (format === FORMAT.local) return text(fork.subarray(0, size));
    const { blockSize, version } = this.#blocks.superblock;
    const header = version === 5 ? LINK_HEADER : 0;
    const parts: Uint8Array[] = [];
    let left = size;
    for (let at = 0; left > 0;) {
      const run = await xfsRun(this.#blocks, inode, at);
      if (run.block === undefined) throw corrupt(`symbolic link ${number} has a hole`);
      // Each piece, however many blocks it has, begins with a header.
      const bytes = new Uint8Array(Math.min(run.count * blockSize, left + header));
      await this.#blocks.fill(run.block, 0, bytes);
      if (version === 5 && viewOf(bytes).getUint32(0) !== LINK_MAGIC)
        throw corrupt(`symbolic link ${number} has no header`);
      parts.push(bytes.subarray(header));
      left -= bytes.length - header;
      at += run.count;
    }
    return text(Buffer.concat(parts));
  }
}
