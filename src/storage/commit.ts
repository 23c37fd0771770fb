import type { IoRing } from '../kvm/io-ring.ts';
import { StorageError } from './disk.ts';
import { readPieces, PIECE } from './copy.ts';
import { whileLocked } from './file-lock.ts';
import { openDisk } from './open.ts';
import { PromisedDisk } from './promised-disk.ts';
import { checkUnchanged, openQcow2, resolveChain, type ChainPolicy, type Layer } from './qcow2/chain.ts';
import { extentAt } from './qcow2/map.ts';
import { restampBacking } from './qcow2/rewrite-header.ts';

/**
 * Writes what an overlay has to the file below it, and empties the overlay. At whatever point this ends early, the
 * overlay reads as before, and it can be done again. Other overlays of the same file lose their meaning.
 * @returns the path of the file below
 * @throws StorageError
 */
export async function commitOverlay(
  ring: IoRing,
  path: string,
  policy: ChainPolicy = {},
  progress?: (share: number) => void,
): Promise<string> {
  const layers = resolveChain(ring, path, 'qcow2', policy);
  const [, below] = layers;
  if (below === undefined) {
    const hint = 'only an overlay can be committed: `tsvm disk info` shows what an image is';
    throw new StorageError(path, 'EINVAL', 'there is no backing file to commit to', hint);
  }
  const uses = layers.map((layer, depth) => [layer.path, depth < 2 ? 'write' : 'read'] as const);
  await whileLocked(uses, async () => {
    checkUnchanged(layers, resolveChain(ring, path, 'qcow2', policy));
    // What the overlay has goes for both states of the backing file, so that it can be used wherever this ends.
    restampBacking(ring, path, undefined);
    await copyDown(ring, path, below, policy, progress);
    await empty(ring, path, policy);
    restampBacking(ring, path, below.path);
  });
  return below.path;
}

async function copyDown(
  ring: IoRing,
  path: string,
  below: Layer,
  policy: ChainPolicy,
  progress: ((share: number) => void) | undefined,
): Promise<void> {
  const overlay = new PromisedDisk(
    await openQcow2(ring, { ...policy, path, readOnly: true, lock: false }),
    ring,
  );
  try {
    const backing = new PromisedDisk(
      await openDisk(ring, { path: below.path, format: below.format, backing: policy, lock: false }),
      ring,
    );
    try {
      if (backing.disk.size < overlay.disk.size) await backing.disk.resize(overlay.disk.size);
      await copyOwn(overlay, backing, progress);
      await backing.flush();
    } finally {
      await backing.close();
    }
  } finally {
    await overlay.close();
  }
}

/** What the overlay itself has, zeros among it. */
async function copyOwn(
  overlay: PromisedDisk,
  backing: PromisedDisk,
  progress: ((share: number) => void) | undefined,
): Promise<void> {
  await readPieces(
    overlay,
    async (offset, buffer, length) => {
      for (let at = offset; at < offset + length;) {
        const extent = await extentAt(overlay.disk, at, offset + length);
        if (extent.depth === 0 && extent.kind === 'zero') await backing.writeZeroes(at, extent.length);
        else if (extent.depth === 0 && extent.kind !== 'none') {
          await overlay.read(at, buffer, extent.length);
          await backing.write(at, buffer, extent.length);
        }
        at += extent.length;
      }
    },
    { ...(progress && { progress }) },
    async (start, length) => {
      const { depth, kind, length: here } = await extentAt(overlay.disk, start, start + length);
      return here >= Math.min(length, PIECE) && (depth > 0 || kind === 'none');
    },
  );
}

async function empty(ring: IoRing, path: string, policy: ChainPolicy): Promise<void> {
  const disk = await openQcow2(ring, { ...policy, acceptChanged: true, path, lock: false });
  try {
    const { image, zeroer } = disk.parts;
    await image.complete(zeroer.discard(0, image.header.size, 'forget'));
  } finally {
    await disk.close();
  }
}
