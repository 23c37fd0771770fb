import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { packageRoot } from '../../src/kvm/package-root.ts';

export { packageRoot };

/** A step of fetching or building that failed: what failed, why, and what to do about it. */
export class DebianError extends Error {
  override readonly name = 'DebianError';
}

/** Root of all caches: TSVM_CACHE, else `.cache` of the package. */
export function cacheRoot(): string {
  const configured = process.env['TSVM_CACHE'];
  return configured === undefined || configured === '' ? join(packageRoot(), '.cache') : resolve(configured);
}

/** Cache of Debian packages and of what is built from them. */
export function debianCache(): string {
  return join(cacheRoot(), 'debian');
}

/**
 * Runs `work` while this process holds the lock file, alone among all processes of the machine. The lock is a
 * flock(2) held by a child that lives as long as its standard input is open, so it goes with us however we end.
 */
export async function withLock<T>(file: string, work: () => Promise<T>): Promise<T> {
  await mkdir(dirname(file), { recursive: true });
  const holder = execa('flock', ['--exclusive', file, 'sh', '-c', 'echo locked; exec cat'], {
    stdin: 'pipe',
    stdout: 'pipe',
    stderr: 'pipe',
    reject: false,
  });
  const locked = await new Promise<boolean>((done) => {
    holder.stdout.once('data', () => done(true));
    void holder.then(() => done(false));
  });
  if (!locked) {
    const { stderr, shortMessage } = await holder;
    throw new DebianError(`cannot lock ${file}: ${stderr === '' ? (shortMessage ?? '') : stderr}`);
  }
  try {
    return await work();
  } finally {
    holder.stdin.end();
    await holder;
  }
}

/** Says on stderr what is being done once it has taken over a second. */
export async function step<T>(what: string, work: () => Promise<T>): Promise<T> {
  const timer = setTimeout(() => process.stderr.write(`tsvm: ${what}\n`), 1000);
  try {
    return await work();
  } finally {
    clearTimeout(timer);
  }
}

/** A name beside `path` that no other process uses. */
export function temporaryName(path: string): string {
  return `${path}.tmp-${process.pid}-${Math.random().toString(36).slice(2, 10)}`;
}

/** Writes a file so that readers see either nothing or all of it. */
export async function writeAtomically(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = temporaryName(path);
  await mkdir(dirname(path), { recursive: true });
  try {
    await writeFile(temporary, content);
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Makes a directory by filling a temporary one and renaming it, unless it is there already. */
export async function makeDirectoryOnce(path: string, fill: (dir: string) => Promise<void>): Promise<void> {
  if (existsSync(path)) return;
  const temporary = temporaryName(path);
  await mkdir(temporary, { recursive: true });
  try {
    await fill(temporary);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    // Another process may have been first: a rename onto a directory that is not empty fails, and all is well.
    if (!existsSync(path)) throw error;
  }
}
