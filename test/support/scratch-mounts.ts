import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();

/** A file system of its own, in memory, that ends at `size` bytes. */
export type ScratchMount = { readonly folder: string; release(): void };

export function mountTmpfs(size: number): ScratchMount {
  const folder = mkdtempSync(join(tmpdir(), 'tsvm-tmpfs-'));
  run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder);
  return {
    folder,
    release: () => {
      run('umount', '-l', folder);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A block device over a file. */
export type LoopDevice = { readonly path: string; readonly file: string; release(): void };

export function attachLoop(size: number, sectorSize = 512): LoopDevice {
  const folder = mkdtempSync(join(tmpdir(), 'tsvm-loop-'));
  mkdirSync(folder, { recursive: true });
  const file = join(folder, 'backing');
  writeFileSync(file, '');
  truncateSync(file, size);
  const path = run('losetup', '--find', '--show', '--sector-size', String(sectorSize), file);
  return {
    path,
    file,
    release: () => {
      run('losetup', '--detach', path);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/**
 * Mounts a file system image for the time of `work`, and has all of it in the image's file afterwards. The mount is
 * in a namespace of its own: in the common one, whatever enters a namespace meanwhile (a test beside this one builds
 * a system, say) takes a copy of the mount along, and unmounting ours would not end the file system.
 *
 * @param work is given where the file system's root is seen
 */
export async function whileMounted<T>(
  image: string,
  args: readonly string[],
  work: (root: string) => T,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'tsvm-mount-'));
  const script = 'set -e; at=$1; shift; mount "$@" "$at"; echo mounted; read -r _ || true; umount "$at"';
  const holder = spawn(
    'unshare',
    ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', folder, ...args, image],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const ended = once(holder, 'close');
  try {
    await Promise.race([once(holder.stdout, 'data'), ended]);
    if (holder.exitCode !== null) throw new Error(`cannot mount ${image} with ${args.join(' ')}`);
    const result = work(`/proc/${holder.pid!}/root${folder}`);
    holder.stdin.end();
    const [code] = (await ended) as [number | null];
    if (code !== 0) throw new Error(`cannot unmount ${image}`);
    return result;
  } finally {
    holder.stdin.end();
    await ended;
    rmSync(folder, { recursive: true, force: true });
  }
}

function works(attempt: () => { release(): void }): boolean {
  try {
    attempt().release();
    return true;
  } catch {
    return false;
  }
}

/** Both take root, and a host that lets it. */
export const canMount = works(() => mountTmpfs(4096));
export const canLoop = works(() => attachLoop(1 << 20));
