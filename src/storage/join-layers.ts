import { closeSync, fsyncSync, openSync, rmSync } from 'node:fs';
import type { IoRing } from '../kvm/io-ring.ts';
import { readPieces, PIECE } from './copy.ts';
import { StorageError } from './disk.ts';
import { whileLocked } from './file-lock.ts';
import { PromisedDisk } from './promised-disk.ts';
import { checkUnchanged, openQcow2, resolveChain, type ChainPolicy, type Layer } from './qcow2/chain.ts';
import { createQcow2 } from './qcow2/create.ts';
import { EXTENSION } from './qcow2/format.ts';
import { imageInfo } from './qcow2/info.ts';
import { extentAt } from './qcow2/map.ts';

export type JoinOptions = {
  readonly overlay: string;
  /** how many layers below the overlay are joined with it, at least 1 */
  readonly below: number;
  /** of the new image, in the folder of the overlay: names of files below are relative to it */
  readonly target: string;
  readonly policy?: ChainPolicy;
  readonly progress?: (share: number) => void;
};

/**
 * Makes an image that has what an overlay and some layers below it have together, and lies on what is below these: it
 * reads as the overlay does. These stay as they are.
 * @throws StorageError; no file is left then
 */
export async function joinLayers(ring: IoRing, options: JoinOptions): Promise<void> {
  const { overlay, below, target, policy = {}, progress } = options;
  const layers = resolveChain(ring, overlay, 'qcow2', policy);
  const lowest = layers[below];
  if (lowest === undefined)
    throw new StorageError(
      overlay,
      'EINVAL',
      `has not ${below} layers below it that could be joined with it`,
    );
  if (lowest.format === 'raw')
    throw new StorageError(overlay, 'EINVAL', `cannot be joined with ${lowest.path}, which is raw`);
  await whileLocked(
    layers.map((layer) => [layer.path, 'read'] as const),
    async () => {
      checkUnchanged(layers, resolveChain(ring, overlay, 'qcow2', policy));
      await createTarget(ring, target, layers[0]!, lowest);
      try {
        await fill(ring, options, policy, progress);
        sync(target);
      } catch (error) {
        rmSync(target, { force: true });
        throw error;
      }
    },
  );
}

/** An empty one, like the overlay, with the name of what is below as the lowest has it. */
async function createTarget(ring: IoRing, target: string, { path }: Layer, lowest: Layer): Promise<void> {
  const { virtualSize, qcow2 } = imageInfo(ring, path, 'qcow2');
  const { version, clusterSize, refcountBits, extendedL2, compression } = qcow2!;
  const { backingFile, backingFormat } = lowest.header ?? {};
  await createQcow2(target, {
    size: virtualSize,
    version,
    clusterSize,
    refcountBits,
    extendedL2,
    compression,
    ...(backingFile !== undefined && { backingFile }),
    ...((backingFormat === 'raw' || backingFormat === 'qcow2') && { backingFormat }),
    extensions: (lowest.header?.extensions ?? []).filter(({ type }) => type === EXTENSION.backingStamp),
  });
}

async function fill(
  ring: IoRing,
  { overlay, target, below }: JoinOptions,
  policy: ChainPolicy,
  progress: ((share: number) => void) | undefined,
): Promise<void> {
  const from = new PromisedDisk(
    await openQcow2(ring, { ...policy, path: overlay, readOnly: true, lock: false }),
    ring,
  );
  try {
    const to = new PromisedDisk(await openQcow2(ring, { ...policy, path: target, lock: false }), ring);
    try {
      await copyJoined(from, to, below, progress);
      await to.flush();
    } finally {
      await to.close();
    }
  } finally {
    await from.close();
  }
}

async function copyJoined(
  from: PromisedDisk,
  to: PromisedDisk,
  below: number,
  progress: ((share: number) => void) | undefined,
): Promise<void> {
  await readPieces(
    from,
    async (offset, buffer, length) => {
      for (let at = offset; at < offset + length;) {
        const { depth, kind, length: here } = await extentAt(from.disk, at, offset + length);
        if (depth <= below) {
          // What none has, although one below them may: that was not to be seen through a smaller one.
          if (kind === 'zero' || kind === 'none') {
            if (!(await readsAsZeros(to, at, here))) await to.writeZeroes(at, here);
          } else await to.write(at, buffer, here, at - offset);
        }
        at += here;
      }
    },
    { ...(progress && { progress }) },
    async (start, length) => {
      const { depth, length: here } = await extentAt(from.disk, start, start + length);
      return here >= Math.min(length, PIECE) && depth > below;
    },
  );
}

async function readsAsZeros({ disk }: PromisedDisk, start: number, length: number): Promise<boolean> {
  for (let at = start; at < start + length;) {
    const { kind, length: here } = await extentAt(disk, at, start + length);
    if (kind === 'data' || kind === 'compressed') return false;
    at += here;
  }
  return true;
}

function sync(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
