/**
 * What is done to images that no VM uses, each in one call. All of these lock the files: who uses them already makes it
 * a StorageError (EBUSY) that names the process. What is loaded for it is loaded at the first call.
 */
import { IoRing } from '../kvm/io-ring.ts';
import type { ConvertTarget } from './convert.ts';
import type { RawCreateOptions } from './create-raw.ts';
import { openDisk, type DiskFormat } from './open.ts';
import type { ChainPolicy } from './qcow2/chain.ts';
import type { CheckOptions, CheckResult } from './qcow2/check.ts';
import type { OverlayOptions } from './qcow2/create-overlay.ts';
import type { CreateOptions, Replace } from './qcow2/create.ts';
import type { ImageInfo } from './qcow2/info.ts';
import type { DiskExtent } from './qcow2/map.ts';
import type { NewBacking, RebaseOptions } from './rebase.ts';
import { whileLocked } from './file-lock.ts';

/** Takes the share that is done, from 0 to 1. */
export type Progress = (share: number) => void;

/** An image that exists. */
export type SourceImage = {
  readonly path: string;
  /** default `raw`, but then what begins like a qcow2 image is refused */
  readonly format?: DiskFormat;
  /** which backing files may be used; default: those in the folder of the image that names them */
  readonly backing?: ChainPolicy;
};

/** A new disk of zeros. */
export type NewDisk =
  | ({ readonly format: 'raw' } & RawCreateOptions)
  | ({ readonly format: 'qcow2' } & Omit<CreateOptions, 'backingFile' | 'backingFormat' | 'extensions'> &
      Replace);

async function withRing<T>(use: (ring: IoRing) => Promise<T>): Promise<T> {
  const ring = new IoRing();
  try {
    return await use(ring);
  } finally {
    ring.close();
  }
}

/**
 * Makes a disk in a new file, which has its name only when it is complete and on stable storage.
 * @throws StorageError; no file is left then
 */
export async function createDisk(path: string, disk: NewDisk, progress?: Progress): Promise<void> {
  if (disk.format === 'raw') {
    const { createRaw } = await import('./create-raw.ts');
    return createRaw(path, disk, progress);
  }
  const { createQcow2 } = await import('./qcow2/create.ts');
  return createQcow2(path, disk, progress);
}

/**
 * Makes a qcow2 image that holds only what will differ from another one, which nobody may write to from then on.
 * @param backing its name as it is recorded (absolute, or relative to the folder of the overlay), and its format
 * @throws StorageError
 */
export function createOverlay(path: string, backing: NewBacking, options?: OverlayOptions): Promise<void> {
  return withRing(async (ring) => {
    const { createOverlay } = await import('./qcow2/create-overlay.ts');
    await createOverlay(ring, path, backing, options);
  });
}

/**
 * What images say of themselves.
 * @param options.chain the backing files too. Default false
 * @param options.share although somebody may be writing to them. Default false
 * @returns the image first
 * @throws StorageError
 */
export function diskInfo(
  { path, format = 'raw', backing }: SourceImage,
  options: { readonly chain?: boolean; readonly share?: boolean } = {},
): Promise<readonly [ImageInfo, ...ImageInfo[]]> {
  return withRing(async (ring) => {
    const { imageInfo } = await import('./qcow2/info.ts');
    const { resolveChain } = await import('./qcow2/chain.ts');
    const layers =
      options.chain === true ? resolveChain(ring, path, format, { ...backing, acceptChanged: true }) : [];
    const paths = layers.length === 0 ? [path] : layers.map((layer) => layer.path);
    const uses = options.share === true ? [] : paths.map((each) => [each, 'read'] as const);
    return whileLocked(uses, () => [
      imageInfo(ring, path, format),
      ...layers.slice(1).map((layer) => imageInfo(ring, layer.path, layer.format)),
    ]);
  });
}

/**
 * Grows or shrinks a disk.
 * @param size bytes, a multiple of 512; or what it is to be, given what it was
 * @returns the old and the new size
 * @throws StorageError, and what `size` throws
 */
export function resizeDisk(
  image: SourceImage,
  size: number | ((old: number) => number),
): Promise<{ readonly oldSize: number; readonly newSize: number }> {
  return withRing(async (ring) => {
    const disk = await openDisk(ring, image);
    try {
      const oldSize = disk.size;
      const newSize = typeof size === 'number' ? size : size(oldSize);
      await disk.resize(newSize);
      return { oldSize, newSize };
    } finally {
      await disk.close();
    }
  });
}

/**
 * Looks for contradictions in a qcow2 image, its backing file aside, and repairs them where that is asked for.
 * @returns what was found, and what is left of it
 * @throws StorageError where it cannot be checked
 */
export function checkDisk(
  path: string,
  options: CheckOptions = {},
): Promise<{ readonly found: CheckResult; readonly left: CheckResult }> {
  const { repair, progress } = options;
  return whileLocked([[path, repair === undefined ? 'read' : 'write']], () =>
    withRing(async (ring) => {
      const { checkImage } = await import('./qcow2/check.ts');
      const { RingFile } = await import('./qcow2/host-file.ts');
      const file = new RingFile(ring, path, repair === undefined);
      try {
        const found = await checkImage(file, options);
        if (repair === undefined) return { found, left: found };
        // What a repair says that it did, and what is there now, may differ.
        return { found, left: await checkImage(file, progress ? { progress } : {}) };
      } finally {
        file.close();
      }
    }),
  );
}

/**
 * Copies a disk with all its layers into a new file, which has its name only when it is complete and on stable storage.
 * @throws StorageError; no file is left then
 */
export function convertDisk(source: SourceImage, target: ConvertTarget, progress?: Progress): Promise<void> {
  return withRing(async (ring) => {
    const { convertDisk } = await import('./convert.ts');
    await convertDisk(ring, await openDisk(ring, { ...source, readOnly: true }), target, progress);
  });
}

/**
 * Puts an overlay on another backing file, or on none. It reads as before, wherever this ends early.
 * @throws StorageError
 */
export function rebaseOverlay(
  path: string,
  backing: NewBacking | undefined,
  options?: RebaseOptions,
): Promise<void> {
  return withRing(async (ring) => {
    const { rebaseOverlay } = await import('./rebase.ts');
    await rebaseOverlay(ring, path, backing, options);
  });
}

/**
 * Writes what an overlay has to the file below it, and empties the overlay. It reads as before, wherever this ends
 * early. Other overlays of the same file are refused afterwards.
 * @returns the path of the file below
 * @throws StorageError
 */
export function commitOverlay(path: string, policy?: ChainPolicy, progress?: Progress): Promise<string> {
  return withRing(async (ring) => {
    const { commitOverlay } = await import('./commit.ts');
    return await commitOverlay(ring, path, policy, progress);
  });
}

/**
 * Gives what a qcow2 disk has now to a file beside it, which is never written to from then on, and makes the disk an
 * overlay over that: nothing is copied. At whatever point this ends early, the disk is there and reads as before.
 * @param layer name of that file, which is not there yet
 * @throws StorageError
 */
export function freezeDisk(path: string, layer: string, policy?: ChainPolicy): Promise<void> {
  return withRing(async (ring) => {
    const { freezeDisk } = await import('./freeze.ts');
    await freezeDisk(ring, path, layer, policy);
  });
}

/**
 * Makes an image at `target` that has what an overlay and so many layers below it have together, and lies on what is
 * below these: it reads as the overlay does.
 * @param below 1 for the layer right below the overlay, and so on
 * @throws StorageError; no file is left then
 */
export function joinLayers(
  overlay: string,
  below: number,
  target: string,
  policy?: ChainPolicy,
  progress?: Progress,
): Promise<void> {
  return withRing(async (ring) => {
    const { joinLayers } = await import('./join-layers.ts');
    await joinLayers(ring, {
      overlay,
      below,
      target,
      ...(policy && { policy }),
      ...(progress && { progress }),
    });
  });
}

/** Where the contents of a disk are, through all layers, in their order. The image is open until it ends. @throws StorageError */
export async function* diskMap(image: SourceImage): AsyncGenerator<DiskExtent> {
  const { mapDisk } = await import('./qcow2/map.ts');
  const ring = new IoRing();
  try {
    const disk = await openDisk(ring, { ...image, readOnly: true });
    try {
      yield* mapDisk(disk);
    } finally {
      await disk.close();
    }
  } finally {
    ring.close();
  }
}
