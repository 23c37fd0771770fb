import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  cacheRoot,
  makeDirectoryOnce,
  packageRoot,
  step,
  withLock,
  writeAtomically,
} from '../../../images/debian/cache.ts';

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'tsvm-cache-'))));
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  rmSync(dir, { recursive: true });
});

describe('cacheRoot', () => {
  it('is .cache of the package', () => {
    vi.stubEnv('TSVM_CACHE', undefined);
    expect(cacheRoot()).toBe(join(packageRoot(), '.cache'));
    expect(existsSync(join(packageRoot(), 'package.json'))).toBe(true);
  });

  it('is TSVM_CACHE where that is set', () => {
    vi.stubEnv('TSVM_CACHE', '/elsewhere');
    expect(cacheRoot()).toBe('/elsewhere');
  });
});

describe('withLock', () => {
  it('lets one in at a time', async () => {
    let inside = 0;
    let most = 0;
    const work = () =>
      withLock(join(dir, 'lock'), async () => {
        most = Math.max(most, ++inside);
        await sleep(20);
        inside--;
      });
    await Promise.all([work(), work(), work()]);
    expect(most).toBe(1);
  });

  it('lets the next in after one that failed', async () => {
    const lock = join(dir, 'lock');
    await expect(withLock(lock, () => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
    expect(await withLock(lock, () => Promise.resolve('in'))).toBe('in');
  });

  it('says which lock cannot be had', async () => {
    const lock = '/proc/no-files-here';
    await expect(withLock(lock, () => Promise.resolve())).rejects.toThrow(`cannot lock ${lock}`);
  });
});

describe('makeDirectoryOnce', () => {
  it('leaves one directory where two make it at once', async () => {
    const path = join(dir, 'tree');
    const make = (content: string) =>
      makeDirectoryOnce(path, async (into) => {
        await sleep(20);
        writeFileSync(join(into, 'file'), content);
      });
    await Promise.all([make('a'), make('b')]);
    expect(['a', 'b']).toContain(readFileSync(join(path, 'file'), 'utf8'));
    expect(readdirSync(dir)).toEqual(['tree']);
  });

  it('leaves nothing where filling it fails', async () => {
    const fails = makeDirectoryOnce(join(dir, 'tree'), (into) => {
      writeFileSync(join(into, 'half'), '');
      return Promise.reject(new Error('disk full'));
    });
    await expect(fails).rejects.toThrow('disk full');
    expect(readdirSync(dir)).toEqual([]);
  });

  it('does not fill one that is there', async () => {
    const path = join(dir, 'tree');
    await makeDirectoryOnce(path, () => Promise.resolve());
    const fill = vi.fn();
    await makeDirectoryOnce(path, fill);
    expect(fill).not.toHaveBeenCalled();
  });
});

describe('writeAtomically', () => {
  it('replaces a file and leaves nothing else', async () => {
    const path = join(dir, 'deep/file');
    await writeAtomically(path, 'old');
    await writeAtomically(path, 'new');
    expect(readFileSync(path, 'utf8')).toBe('new');
    expect(readdirSync(join(dir, 'deep'))).toEqual(['file']);
  });
});

describe('step', () => {
  it('says what takes over a second, and nothing of what does not', async () => {
    const written: string[] = [];
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => written.push(String(text)) > 0);
    await step('a quick step', () => Promise.resolve());
    await step('a slow step', () => sleep(1100));
    expect(written).toEqual(['tsvm: a slow step\n']);
  });
});
