import { dirname, isAbsolute, join } from 'node:path';
import type { IoRing } from '../../kvm/io-ring.ts';
import { stampOf } from './backing-stamp.ts';
import { resolveChain, type ChainPolicy, type ImageFormat } from './chain.ts';
import { createQcow2, type CreateOptions, type Replace } from './create.ts';
import { imageInfo } from './info.ts';
import { whileLocked } from '../file-lock.ts';

export type OverlayOptions = ChainPolicy &
  Replace &
  Omit<CreateOptions, 'size' | 'backingFile' | 'backingFormat' | 'preallocation' | 'extensions'> & {
    /** of the disk in bytes; default: as large as what is below */
    readonly size?: number;
    /**
     * The file below is never written to, whatever else becomes of it: nothing of it is recorded, so that one that reads
     * the same may take its place. Default false
     */
    readonly frozen?: boolean;
  };

/**
 * Makes an overlay over an image, and records in it what that is like: it must not be written to from then on.
 * @param backing its name as it is to be in the header (absolute, or relative to the overlay's folder), and its format
 * @throws StorageError where that cannot be opened, with what lies below it
 */
export async function createOverlay(
  ring: IoRing,
  path: string,
  backing: { readonly name: string; readonly format: ImageFormat },
  options: OverlayOptions = {},
): Promise<void> {
  const { name, format } = backing;
  const place = isAbsolute(name) ? name : join(dirname(path), name);
  const layers = resolveChain(ring, place, format, options);
  // What is recorded of the file holds only where nobody is writing to it.
  await whileLocked(
    layers.map((layer) => [layer.path, 'read']),
    () =>
      createQcow2(path, {
        ...options,
        size: options.size ?? imageInfo(ring, place, format).virtualSize,
        backingFile: name,
        backingFormat: format,
        extensions: options.frozen === true ? [] : [stampOf(place)],
      }),
  );
}
