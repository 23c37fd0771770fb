import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

import { afterEach, beforeEach, expect, it } from 'vitest';

import { withLock } from '../../../src/manager/lock.ts';
import { managerPaths, type ManagerPaths } from '../../../src/manager/paths.ts';
import { bundle } from '../cli/support/bundle.ts';
import { temporaryFolder } from '../../support/storage/qemu-img.ts';

const counter = bundle('../../../support/count-under-lock.ts');

let folder: ReturnType<typeof temporaryFolder>;
let paths: ManagerPaths;
beforeEach(() => {
  folder = temporaryFolder();
  paths = managerPaths({ TSVM_HOME: folder.path });
});
afterEach(() => folder.remove());

function start(...args: string[]): ReturnType<typeof spawn> {
  return spawn(process.execPath, [counter, ...args], {
    env: { ...process.env, TSVM_HOME: folder.path },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
}

it('lets one at a time do something, in one process', async () => {
  let inside = 0;
  const seen: number[] = [];
  await Promise.all(
    Array.from({ length: 20 }, () =>
      withLock(paths, 'x', async () => {
        seen.push(++inside);
        await new Promise((resolve) => setTimeout(resolve, 1));
        inside--;
      }),
    ),
  );
  expect(seen).toEqual(Array.from({ length: 20 }, () => 1));
});

it('lets one at a time do something, in many processes', async () => {
  const file = folder.file('count');
  writeFileSync(file, '0');
  const processes = Array.from({ length: 8 }, () => start(file, '25'));
  const codes = await Promise.all(processes.map(async (each) => (await once(each, 'exit'))[0] as number));
  expect(codes).toEqual(codes.map(() => 0));
  expect(readFileSync(file, 'utf8')).toBe('200');
});

it('is free again when the process that has it is killed', async () => {
  const holder = start('hold');
  await once(holder.stdout!, 'data');
  let waited = false;
  const got = withLock(paths, 'count', () => 'mine', {
    onWait: () => {
      waited = true;
      holder.kill('SIGKILL');
    },
  });
  expect(await got).toBe('mine');
  expect(waited).toBe(true);
});

it('is not waited for any longer when the signal says so', async () => {
  await withLock(paths, 'x', async () => {
    const abort = new AbortController();
    const waiting = withLock(paths, 'x', () => undefined, {
      onWait: () => abort.abort(),
      signal: abort.signal,
    });
    await expect(waiting).rejects.toMatchObject({ name: 'AbortError' });
  });
});

it('is free again when what was done with it fails', async () => {
  await expect(withLock(paths, 'x', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(await withLock(paths, 'x', () => 1)).toBe(1);
});

it('has a name that is one file in its folder', async () => {
  for (const name of ['', '.', '..', '../x', 'a/b', 'A', 'x\0', 'a'.repeat(300)])
    await expect(withLock(paths, name, () => undefined)).rejects.toThrow(RangeError);
  await withLock(paths, 'vm-a.b', () => undefined);
  expect(readdirSync(paths.locks)).toEqual(['vm-a.b.lock']);
});
