import { corrupt } from '../error.ts';
import { readBytes, type ByteReader } from '../reader.ts';
import type { XfsSuperblock } from './superblock.ts';

/** Blocks by their numbers, which have a group's in the upper bits and the place within it in the lower ones. */
export class XfsBlocks {
  readonly superblock: XfsSuperblock;
  readonly #volume: ByteReader;

  constructor(volume: ByteReader, superblock: XfsSuperblock) {
    this.#volume = volume;
    this.superblock = superblock;
  }

  /** In bytes on the volume. */
  placeOf(block: number): number {
    const { agBlockBits, agBlocks, agCount, blockSize } = this.superblock;
    const group = Math.floor(block / 2 ** agBlockBits);
    const within = block % 2 ** agBlockBits;
    if (!(group < agCount && within < agBlocks)) throw corrupt(`XFS has no block ${block}`);
    return (group * agBlocks + within) * blockSize;
  }

  read(block: number): Promise<Uint8Array> {
    return this.readAt(this.placeOf(block), this.superblock.blockSize);
  }

  readAt(place: number, length: number): Promise<Uint8Array> {
    return readBytes(this.#volume, place, length);
  }

  async fill(block: number, skip: number, target: Uint8Array): Promise<void> {
    await this.#volume.read(this.placeOf(block) + skip, target);
  }
}
