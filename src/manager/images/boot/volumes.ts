/** The file systems of a guest that a boot loader finds its files on. */
import { GuestFsError } from '../../../storage/guest-fs/error.ts';
import type { GuestDisk } from '../../../storage/guest-fs/guest-disk.ts';
import type { GuestFs } from '../../../storage/guest-fs/guest-fs.ts';
import type { Partition } from '../../../storage/guest-fs/partition.ts';

export type Volume = { readonly partition: Partition; readonly fs: GuestFs };

/** A place that a boot loader names. */
export type Place = { readonly volume: Volume; readonly path: string };

export type Volumes = {
  readonly readable: readonly Volume[];
  /** those with something on them that is not read, and why */
  readonly others: readonly {
    readonly partition: Partition;
    readonly reason: string;
    readonly isDamaged: boolean;
  }[];
};

/** Partitions whose content has nothing to do with booting, by what it is called. */
const ASIDE = ['swap space'];

/** Text files of boot loaders have no more than this. */
const TEXT_LIMIT = 2 ** 20;

export async function openVolumes(disk: GuestDisk): Promise<Volumes> {
  const readable: Volume[] = [];
  const others: Volumes['others'][number][] = [];
  for (const volume of disk.volumes) {
    const { partition, content } = volume;
    if (content.kind === 'empty' || content.kind === 'unknown') continue;
    if (content.kind === 'other' && ASIDE.includes(content.name)) continue;
    try {
      readable.push({ partition, fs: await volume.open() });
    } catch (error) {
      if (!(error instanceof GuestFsError)) throw error;
      const reason = content.kind === 'other' ? content.name : error.message;
      others.push({ partition, reason, isDamaged: error.code !== 'EUNSUPPORTED' });
    }
  }
  return { readable, others };
}

const ESP_TYPES = ['c12a7328-f81f-11d2-ba4b-00a0c93ec93b', '0xef'];

/** Whether firmware looks for boot loaders there. */
export const isEsp = ({ partition, fs }: Volume): boolean =>
  fs.type === 'vfat' && (ESP_TYPES.includes(partition.type) || partition.number === 0);

export const describePlace = ({ volume, path }: Place): string =>
  volume.partition.number === 0 ? path : `${path} on partition ${volume.partition.number}`;

/** A text file. Undefined where there is none; a damaged or large one is as none. */
export async function textAt({ volume, path }: Place): Promise<string | undefined> {
  const bytes = await tolerant(() => volume.fs.readFile(path, TEXT_LIMIT));
  return bytes === undefined ? undefined : Buffer.from(bytes).toString('utf8');
}

/** Names in a folder; none where there is no such folder. */
export async function namesIn({ volume, path }: Place): Promise<string[]> {
  return (await tolerant(() => volume.fs.list(path))) ?? [];
}

/** Whether a path leads to a file. */
export async function isFile({ volume, path }: Place): Promise<boolean> {
  return (await tolerant(() => volume.fs.stat(path)))?.kind === 'file';
}

/**
 * What is looked for may be in another place where this one is damaged. What the host cannot read, and what takes too
 * long, is nowhere.
 */
async function tolerant<T>(attempt: () => Promise<T>): Promise<T | undefined> {
  try {
    return await attempt();
  } catch (error) {
    if (error instanceof GuestFsError && error.code !== 'EIO' && error.code !== 'ETOOBIG') return undefined;
    throw error;
  }
}
