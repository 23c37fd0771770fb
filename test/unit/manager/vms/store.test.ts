import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { VmSettings } from '../../../../src/manager/vms/settings.ts';
import { VmStore, VmStoreError } from '../../../../src/manager/vms/store.ts';

const SETTINGS: VmSettings = {
  vm: { memory: 2 ** 26, cpus: 1, console: 'serial', transport: 'pci', balloon: true, jail: 'on' },
  boot: { kernel: 'k' },
  disks: [],
  network: { cards: [], publish: [], hostAccess: false },
  shares: [],
};

let folder: string;
let store: VmStore;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-store-'));
  store = new VmStore(join(folder, 'vms'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const make = (name: string): Promise<void> => store.create(name, () => Promise.resolve(SETTINGS));
const codeOf = (error: unknown): string => (error instanceof VmStoreError ? error.code : String(error));

test('a VM that was made is listed, with its settings, for its owner only', async () => {
  await make('web');
  await make('db');
  expect(store.names()).toEqual(['db', 'web']);
  expect(store.settings('web')).toEqual(SETTINGS);
  expect(store.status('web')).toEqual({ state: 'stopped', record: undefined });
  expect(statSync(store.folderOf('web')).mode & 0o777).toBe(0o700);
});

test('of two that make a VM of one name at once, one fails, and nothing is left of it', async () => {
  const results = await Promise.allSettled([
    make('web'),
    new VmStore(join(folder, 'vms')).create('web', () => Promise.resolve(SETTINGS)),
  ]);
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  expect(readdirSync(join(folder, 'vms'))).toEqual(['web']);
});

test('a VM that cannot be filled is not there', async () => {
  await expect(store.create('web', () => Promise.reject(new Error('no disk')))).rejects.toThrow('no disk');
  expect(readdirSync(join(folder, 'vms'))).toEqual([]);
});

test('what a killed process has left half made goes with the next change', async () => {
  await make('web');
  const { pid } = spawnSync('true');
  const left = join(folder, 'vms', `.new-db-00000000-${pid}`);
  const ours = join(folder, 'vms', `.new-db-00000000-${process.pid}`);
  for (const each of [left, ours]) mkdirSync(each);
  expect(store.names()).toEqual(['web']);
  await make('db');
  expect(existsSync(left)).toBe(false);
  expect(existsSync(ours)).toBe(true);
});

test('what is no VM is not listed, and not deleted', async () => {
  await make('web');
  mkdirSync(join(folder, 'vms', 'other'));
  writeFileSync(join(folder, 'vms', 'file'), '');
  expect(store.names()).toEqual(['web']);
  await expect(store.delete('other')).rejects.toMatchObject({ code: 'ENOVM' });
  expect(existsSync(join(folder, 'vms', 'other'))).toBe(true);
});

test('a name that is nearly right is asked for', () => {
  return make('webserver').then(() => {
    expect(() => store.folderOf('websever')).toThrow(
      expect.objectContaining({ hint: "did you mean 'webserver'?" }),
    );
  });
});

test('renaming does not replace another VM', async () => {
  await make('a');
  await make('b');
  try {
    store.rename('a', 'b');
    expect.unreachable();
  } catch (error) {
    expect(codeOf(error)).toBe('EEXIST');
  }
  store.rename('a', 'c');
  expect(store.names()).toEqual(['b', 'c']);
});

test('a deleted VM is gone with all its files', async () => {
  await make('web');
  writeFileSync(join(store.folderOf('web'), 'root.qcow2'), 'x');
  await store.delete('web');
  expect(readdirSync(join(folder, 'vms'))).toEqual([]);
});
