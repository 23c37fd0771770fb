/** From the catalogue to a folder: a download of each file, checked, and landed at once. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import { withLock } from '../lock.ts';
import { privateFolder, type ManagerPaths } from '../paths.ts';
import {
  findEntry,
  loadCatalogue,
  type Catalogue,
  type CatalogueEntry,
  type RemoteFile,
} from './catalogue.ts';
import { findChecksum, type Digest } from './checksums.ts';
import { checkDisk } from './disk-format.ts';
import { download, Rate, readPartState, type DownloadOptions, type DownloadProgress } from './download.ts';
import { ImageError } from './errors.ts';
import { getText, HttpClient, shown } from './http.ts';
import { imageId } from './names.ts';
import { DISK_NAME, type StoredImage } from './record.ts';
import { downloadsFolder, findImage, imageLock, landImage, prepareStore } from './store.ts';

/** What a pull is doing. */
export type PullProgress = DownloadProgress & {
  /** the file that is coming */
  readonly file: string;
  /** another process is at it, and this one waits for it */
  readonly waiting: boolean;
};

export type PullOptions = Omit<DownloadOptions, 'onProgress'> & {
  /** default: the package's, with config.ini */
  readonly catalogue?: Catalogue;
  readonly onProgress?: (progress: PullProgress) => void;
  /** milliseconds without a byte before a server is given up; default 30 s */
  readonly stallTimeout?: number;
};

export type Pulled = {
  readonly image: StoredImage;
  /** false where it was here already */
  readonly isNew: boolean;
};

/** How often the progress of another process is looked at, in milliseconds. */
const WATCH_INTERVAL = 200;

/** An image's file with the checksum that it has now. */
type Wanted = { readonly remote: RemoteFile; readonly digest: Digest; readonly name: string };

/**
 * Gets what an image of the catalogue is now, unless it is here. Many may do so at once, in many processes: one
 * downloads, and the others wait for it.
 * @throws ImageError, IniError
 */
export async function pullImage(
  paths: ManagerPaths,
  name: string,
  options: PullOptions = {},
): Promise<Pulled> {
  const catalogue = options.catalogue ?? loadCatalogue(paths.config);
  const entry = findEntry(catalogue, name);
  prepareStore(paths);
  const { stallTimeout, signal } = options;
  await using client = new HttpClient(stallTimeout === undefined ? {} : { stallTimeout });
  const wanted = await withChecksums(client, entry, signal);
  const id = imageId(
    entry.name,
    wanted.map(({ digest }) => digest.hex),
  );
  const here = findImage(paths, id);
  if (here !== undefined) return { image: here, isNew: false };
  const folder = join(downloadsFolder(paths, id));
  const watch = new Watch(folder, wanted, options.onProgress);
  try {
    return await withLock(
      paths,
      imageLock(id),
      async () => {
        watch.end();
        const made = findImage(paths, id);
        if (made !== undefined) return { image: made, isNew: false };
        return { image: await get(paths, id, entry, wanted, client, options), isNew: true };
      },
      { onWait: () => watch.begin(), ...(signal && { signal }) },
    );
  } finally {
    watch.end();
  }
}

/**
 * An image that is here by this name, whatever its distributor has by now; else what {@link pullImage} gets.
 * @throws ImageError, IniError
 */
export async function ensureImage(
  paths: ManagerPaths,
  name: string,
  options: PullOptions = {},
): Promise<StoredImage> {
  const here = findImage(paths, name, () => options.catalogue ?? loadCatalogue(paths.config));
  return here ?? (await pullImage(paths, name, options)).image;
}

async function get(
  paths: ManagerPaths,
  id: string,
  entry: CatalogueEntry,
  wanted: readonly Wanted[],
  client: HttpClient,
  options: PullOptions,
): Promise<StoredImage> {
  const { onProgress, signal, attempts, backOff, limit } = options;
  const folder = privateFolder(downloadsFolder(paths, id));
  for (const { remote, digest, name } of wanted) {
    await download(client, { url: remote.url, digest }, partOf(folder, name), {
      ...(onProgress && {
        onProgress: (progress) => onProgress({ ...progress, file: remote.name, waiting: false }),
      }),
      ...(signal && { signal }),
      ...(attempts !== undefined && { attempts }),
      ...(backOff !== undefined && { backOff }),
      ...(limit !== undefined && { limit }),
    });
  }
  const [disk] = wanted;
  if (disk === undefined) throw new ImageError('EINVAL', `the image ${entry.name} has no disk`);
  const virtualSize = await checkDisk(partOf(folder, disk.name), entry.format, shown(entry.disk.url));
  const { cmdline, user } = entry;
  return landImage(
    paths,
    id,
    {
      version: 1,
      name: entry.name,
      title: entry.title,
      created: new Date().toISOString(),
      source: shown(entry.disk.url),
      checksum: `${disk.digest.algorithm}:${disk.digest.hex}`,
      format: entry.format,
      virtualSize,
      kernel: entry.kernel !== undefined,
      initrd: entry.initrd !== undefined,
      ...(cmdline !== undefined && { cmdline }),
      ...(user !== undefined && { user }),
      agent: entry.agent,
    },
    wanted.map(({ name }) => ({ from: partOf(folder, name), name })),
  );
}

const partOf = (folder: string, name: string): string => join(folder, `${name}.part`);

/** The disk first. Lists that several files share are fetched once. */
async function withChecksums(
  client: HttpClient,
  entry: CatalogueEntry,
  signal: AbortSignal | undefined,
): Promise<Wanted[]> {
  const lists = new Map<string, string>();
  const wanted: Wanted[] = [];
  const add = async (remote: RemoteFile | undefined, name: string): Promise<void> => {
    if (remote === undefined) return;
    const { proof } = remote;
    if (!('list' in proof)) {
      wanted.push({ remote, digest: proof, name });
      return;
    }
    const text = lists.get(proof.list) ?? (await getText(client, proof.list, signal));
    lists.set(proof.list, text);
    wanted.push({ remote, digest: findChecksum(text, remote.name, shown(proof.list)), name });
  };
  await add(entry.disk, DISK_NAME[entry.format]);
  await add(entry.kernel, 'vmlinuz');
  await add(entry.initrd, 'initrd');
  return wanted;
}

/** Tells how far another process is, by its files. */
class Watch {
  readonly #folder: string;
  readonly #wanted: readonly Wanted[];
  readonly #onProgress: ((progress: PullProgress) => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #rates = new Map<string, Rate>();

  constructor(
    folder: string,
    wanted: readonly Wanted[],
    onProgress: ((progress: PullProgress) => void) | undefined,
  ) {
    this.#folder = folder;
    this.#wanted = wanted;
    this.#onProgress = onProgress;
  }

  begin(): void {
    if (this.#onProgress === undefined) return;
    this.#timer = setInterval(() => void this.#look(), WATCH_INTERVAL);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #look(): Promise<void> {
    for (const { remote, name } of this.#wanted.toReversed()) {
      const part = partOf(this.#folder, name);
      const bytes = await stat(part).then(
        ({ size }) => size,
        () => undefined,
      );
      if (bytes === undefined) continue;
      const { total } = await readPartState(part);
      const rate = this.#rates.get(name) ?? new Rate();
      this.#rates.set(name, rate);
      if (this.#timer === undefined) return;
      this.#onProgress?.({ file: remote.name, bytes, total, rate: rate.of(bytes), waiting: true });
      return;
    }
  }
}
