import { text } from '../bytes.ts';
import { DIRECTORY_LIMIT, PATH_LIMIT, type FsDriver } from '../driver.ts';
import { corrupt, GuestFsError, unsupported } from '../error.ts';
import { readBytes, type ByteReader } from '../reader.ts';
import { Blocks } from './blocks.ts';
import { parseEntries, type Ext4Entry } from './directory.ts';
import { extentRun, mappedRun, type Run } from './extents.ts';
import { readInode, type Inode } from './inode.ts';
import { readJournal, type Journal } from './journal.ts';
import { INCOMPAT, readSuperblock, SUPERBLOCK_AT, SUPERBLOCK_SIZE, type Superblock } from './superblock.ts';

const ROOT = 2;
/** An inline directory has its parent's number, entries up to the end of the block map, and then others. */
const INLINE_PARENT = 4;
const INLINE_SECOND = 60;

/** Opens ext2, ext3 and ext4. What is only in the journal yet is read from there. @throws GuestFsError */
export async function openExt4(volume: ByteReader): Promise<Ext4> {
  if (volume.size < SUPERBLOCK_AT + SUPERBLOCK_SIZE) throw corrupt('the volume is too small for ext4');
  const superblock = readSuperblock(await readBytes(volume, SUPERBLOCK_AT, SUPERBLOCK_SIZE), volume.size);
  const { blockSize, blockCount } = superblock;
  const unreplayed = new Ext4(superblock, new Blocks(volume, blockSize, blockCount), []);
  if (!superblock.needsRecovery) return unreplayed;
  const { newer, notes } = await unreplayed.journal();
  if (newer.size === 0) return new Ext4(superblock, new Blocks(volume, blockSize, blockCount), notes);
  // The superblock may be in the journal too.
  const bytes = new Uint8Array(SUPERBLOCK_SIZE);
  await new Blocks(volume, blockSize, blockCount, newer).readRange(0, SUPERBLOCK_AT, bytes);
  const replayed = readSuperblock(bytes, volume.size);
  if (replayed.blockSize !== blockSize)
    throw corrupt('ext4: the journal has a superblock of another block size');
  return new Ext4(replayed, new Blocks(volume, blockSize, replayed.blockCount, newer), notes);
}

/** @see openExt4 */
export class Ext4 implements FsDriver<Ext4Entry, Inode> {
  readonly notes: readonly string[];
  readonly #superblock: Superblock;
  readonly #blocks: Blocks;

  constructor(superblock: Superblock, blocks: Blocks, notes: readonly string[]) {
    this.#superblock = superblock;
    this.#blocks = blocks;
    this.notes = notes;
  }

  get type(): 'ext2' | 'ext3' | 'ext4' {
    return this.#superblock.type;
  }

  get uuid(): string {
    return this.#superblock.uuid;
  }

  get label(): string {
    return this.#superblock.label;
  }

  root(): Promise<Inode> {
    return readInode(this.#blocks, this.#superblock, ROOT);
  }

  node(entry: Ext4Entry): Promise<Inode> {
    return readInode(this.#blocks, this.#superblock, entry.inode);
  }

  isNamed(entry: Ext4Entry, name: string): boolean {
    return entry.name === name;
  }

  async *entries(directory: Inode): AsyncGenerator<readonly Ext4Entry[]> {
    const { inline, size, number } = directory;
    const hasTypes = (this.#superblock.incompat & INCOMPAT.fileType) !== 0;
    if (inline !== undefined) {
      yield parseEntries(inline.subarray(INLINE_PARENT, INLINE_SECOND), hasTypes);
      yield parseEntries(inline.subarray(INLINE_SECOND, size), hasTypes);
      return;
    }
    if (size > DIRECTORY_LIMIT) throw new GuestFsError('ETOOBIG', `directory ${number} has ${size} bytes`);
    const block = new Uint8Array(this.#blocks.size);
    for (let at = 0; at + block.length <= size; at += block.length) {
      await this.read(directory, at, block);
      yield parseEntries(block, hasTypes);
    }
  }

  async read(inode: Inode, offset: number, target: Uint8Array): Promise<void> {
    if (inode.isEncrypted) throw unsupported(`file ${inode.number} is encrypted`);
    if (inode.isCompressed) throw unsupported(`file ${inode.number} is compressed`);
    if (inode.inline !== undefined) {
      // What lies behind is a hole, as truncate(2) makes it.
      target.fill(0);
      target.set(inode.inline.subarray(offset, offset + target.length));
      return;
    }
    const blockSize = this.#blocks.size;
    for (let done = 0; done < target.length;) {
      const at = Math.floor((offset + done) / blockSize);
      const skip = (offset + done) % blockSize;
      const run = await this.#run(inode, at);
      const part = target.subarray(done, done + run.count * blockSize - skip);
      if (run.block === undefined) part.fill(0);
      else await this.#blocks.readRange(run.block, skip, part);
      done += part.length;
    }
  }

  async link(inode: Inode): Promise<string> {
    if (inode.size === 0 || inode.size >= PATH_LIMIT)
      throw corrupt(`symbolic link ${inode.number} has ${inode.size} bytes`);
    const bytes = new Uint8Array(inode.size);
    await this.read(inode, 0, bytes);
    return text(bytes);
  }

  /** What is in the journal and has to be seen instead of what is in its place. */
  async journal(): Promise<Journal> {
    const { journalInode, blockSize } = this.#superblock;
    try {
      if (journalInode === 0) throw corrupt('it is on another device');
      const inode = await readInode(this.#blocks, this.#superblock, journalInode);
      const locate = async (block: number): Promise<number> => {
        const found = (await this.#run(inode, block)).block;
        if (found === undefined) throw corrupt('it has a hole');
        return found;
      };
      return await readJournal({
        blockSize,
        locate,
        read: async (block) => this.#blocks.read(await locate(block)),
      });
    } catch (error) {
      if (!(error instanceof GuestFsError) || error.code === 'EIO') throw error;
      const note = `the journal is needed and cannot be read (${error.message}): the last changes are missing`;
      return { newer: new Map(), notes: [note] };
    }
  }

  #run(inode: Inode, block: number): Promise<Run> {
    return inode.hasExtents
      ? extentRun(this.#blocks, inode.map, block)
      : mappedRun(this.#blocks, inode.map, block);
  }
}
