import { viewOf } from '../bytes.ts';
import { DIRECTORY_LIMIT, type FsDriver, type GuestNode } from '../driver.ts';
import { corrupt, GuestFsError } from '../error.ts';
import { readBytes, type ByteReader } from '../reader.ts';
import { readBootSector, type FatGeometry } from './boot-sector.ts';
import { FatDirectory, type FatEntry } from './directory.ts';

export type FatNode = GuestNode & {
  /** 0: no clusters; of the root directory of FAT12 and FAT16, its own area */
  readonly cluster: number;
  readonly isFixedRoot: boolean;
  /** clusters of the file as far as they were looked up */
  readonly chain: number[];
};

const BOOT_SECTOR = 512;

/** @throws GuestFsError */
export async function openFat(volume: ByteReader): Promise<Fat> {
  if (volume.size < BOOT_SECTOR) throw corrupt('the volume is too small for a FAT');
  return new Fat(volume, readBootSector(await readBytes(volume, 0, BOOT_SECTOR), volume.size));
}

/** FAT12, FAT16 and FAT32, with the long names of VFAT. */
export class Fat implements FsDriver<FatEntry, FatNode> {
  readonly type = 'vfat';
  readonly uuid: string;
  readonly label: string;
  readonly notes: readonly string[] = [];
  readonly #volume: ByteReader;
  readonly #geometry: FatGeometry;

  constructor(volume: ByteReader, geometry: FatGeometry) {
    this.#volume = volume;
    this.#geometry = geometry;
    this.uuid = geometry.uuid;
    this.label = geometry.label;
  }

  root(): Promise<FatNode> {
    const { rootCluster, bits } = this.#geometry;
    const node = { kind: 'directory', size: 0, mtime: 0, stamp: 'root', chain: [] } as const;
    return Promise.resolve({ ...node, chain: [], cluster: rootCluster, isFixedRoot: bits !== 32 });
  }

  node(entry: FatEntry): Promise<FatNode> {
    const { isDirectory, size, cluster, modified } = entry;
    return Promise.resolve({
      kind: isDirectory ? 'directory' : 'file',
      size,
      mtime: secondsOf(modified),
      stamp: [cluster, size, modified].join(':'),
      cluster,
      isFixedRoot: false,
      chain: [],
    });
  }

  isNamed(entry: FatEntry, name: string): boolean {
    const wanted = name.toLowerCase();
    return entry.name.toLowerCase() === wanted || entry.shortName.toLowerCase() === wanted;
  }

  async *entries(directory: FatNode): AsyncGenerator<readonly FatEntry[]> {
    const { rootAt, rootSize, clusterSize, bits } = this.#geometry;
    const parser = new FatDirectory(bits === 32);
    if (directory.isFixedRoot) {
      yield parser.add(await readBytes(this.#volume, rootAt, rootSize));
      return;
    }
    for (let i = 0; !parser.ended; i++) {
      if ((i + 1) * clusterSize > DIRECTORY_LIMIT)
        throw new GuestFsError('ETOOBIG', `a directory has over ${DIRECTORY_LIMIT} bytes`);
      const cluster = await this.#clusterOf(directory, i);
      if (cluster === undefined) return;
      yield parser.add(await readBytes(this.#volume, this.#placeOf(cluster), clusterSize));
    }
  }

  async read(node: FatNode, offset: number, target: Uint8Array): Promise<void> {
    const { clusterSize } = this.#geometry;
    for (let done = 0; done < target.length;) {
      const first = Math.floor((offset + done) / clusterSize);
      const skip = (offset + done) % clusterSize;
      const cluster = await this.#mustHave(node, first);
      let count = 1;
      // As much in one go as lies in one piece.
      while (skip + target.length - done > count * clusterSize) {
        if ((await this.#mustHave(node, first + count)) !== cluster + count) break;
        count++;
      }
      const part = target.subarray(done, done + count * clusterSize - skip);
      await this.#volume.read(this.#placeOf(cluster) + skip, part);
      done += part.length;
    }
  }

  link(): Promise<string> {
    return Promise.reject(corrupt('FAT has no symbolic links'));
  }

  #placeOf(cluster: number): number {
    return this.#geometry.dataAt + (cluster - 2) * this.#geometry.clusterSize;
  }

  async #mustHave(node: FatNode, index: number): Promise<number> {
    const cluster = await this.#clusterOf(node, index);
    if (cluster === undefined) throw corrupt(`a file of ${node.size} bytes has only ${index} clusters`);
    return cluster;
  }

  /** @returns undefined behind the last one */
  async #clusterOf(node: FatNode, index: number): Promise<number | undefined> {
    const { chain } = node;
    const { lastCluster, bits } = this.#geometry;
    while (chain.length <= index) {
      const last = chain.at(-1);
      const next = last === undefined ? node.cluster : await this.#following(last);
      if (last === undefined && next === 0) return undefined;
      if (last !== undefined && next >= 2 ** Math.min(bits, 28) - 8) return undefined;
      if (next < 2 || next > lastCluster) throw corrupt(`cluster ${next} in a file's chain is none`);
      if (chain.length >= lastCluster) throw corrupt("a file's chain of clusters has no end");
      chain.push(next);
    }
    return chain[index];
  }

  async #following(cluster: number): Promise<number> {
    const { bits, tableAt } = this.#geometry;
    if (bits === 12) {
      const pair = viewOf(await readBytes(this.#volume, tableAt + Math.floor(cluster * 1.5), 2)).getUint16(
        0,
        true,
      );
      return cluster % 2 === 0 ? pair & 0xfff : pair >> 4;
    }
    const bytes = await readBytes(this.#volume, tableAt + (cluster * bits) / 8, bits / 8);
    return bits === 16 ? viewOf(bytes).getUint16(0, true) : viewOf(bytes).getUint32(0, true) & 0xfff_ffff;
  }
}

/** FAT keeps local time without its zone, which is taken for UTC; to two seconds. */
function secondsOf(modified: number): number {
  const time = modified & 0xffff;
  const date = modified >>> 16;
  const day = Date.UTC(1980 + (date >> 9), ((date >> 5) & 15) - 1, date & 31);
  return day / 1000 + (time >> 11) * 3600 + ((time >> 5) & 63) * 60 + (time & 31) * 2;
}
