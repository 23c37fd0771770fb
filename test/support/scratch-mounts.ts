import { execFileSync } from 'node:child_process';
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
