/** Snapshots of VMs that run, by the built command line. The guest echoes what is typed, and says once that it is ready. */
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { VM_GENERATION } from '../../src/boot/layout.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

const folderOf = (name: string): string => join(home.env.TSVM_HOME, 'vms', name);

async function start(name: string): Promise<void> {
  await home.create(name);
  await home.ok('start', name);
  await home.ok('wait', '--for', '/echo: ready/', '--timeout', '30', name);
}

/** The guest is there, and has not booted since its process was started. */
async function expectGoesOn(name: string): Promise<void> {
  await home.ok('send', '--enter', name, `typed-to-${name}`);
  await home.ok('wait', '--for', `/typed-to-${name}/`, '--timeout', '30', name);
  expect(await home.ok('screenshot', name)).not.toContain('echo: ready');
}

test('a VM that is suspended goes on from where it was, once', async () => {
  await start('web');
  await home.ok('suspend', 'web');
  expect(await home.state('web')).toBe('suspended');
  expect(home.processes()).toEqual([]);
  await home.ok('start', 'web');
  await expectGoesOn('web');
  expect(existsSync(join(folderOf('web'), 'resume'))).toBe(false);
  await home.ok('stop', '--force', 'web');
  await home.ok('start', 'web');
  await home.ok('wait', '--for', '/echo: ready/', '--timeout', '30', 'web');
});

test('a suspended VM keeps its settings, and boots where that is asked for', async () => {
  await start('web');
  await home.ok('suspend', 'web');
  const { code, stderr } = await home.tsvm('set', '--mem', '64M', 'web');
  expect([code, stderr]).toEqual([1, expect.stringMatching(/is suspended, .*\nhint: .*start --cold/)]);
  await home.ok('start', '--cold', 'web');
  await home.ok('wait', '--for', '/echo: ready/', '--timeout', '30', 'web');
  expect(existsSync(join(folderOf('web'), 'resume'))).toBe(false);
});

test('what cannot be gone on from is refused with the reason, and the way out', async () => {
  await start('web');
  await home.ok('suspend', 'web');
  const state = join(folderOf('web'), 'resume', 'state.json');
  chmodSync(state, 0o600);
  truncateSync(state, 1000);
  const { code, stderr } = await home.tsvm('start', 'web');
  expect([code, stderr]).toEqual([1, expect.stringMatching(/state\.json.*is cut short/)]);
  expect(stderr).toContain('hint: `tsvm start --cold web` discards what it was and boots it');
  expect(await home.state('web')).toBe('suspended');
  await home.ok('start', '--cold', 'web');
});

test('a VM that runs goes back to a snapshot and runs on, and forth to what it was meanwhile', async () => {
  await start('web');
  const taken = await home.ok('snapshot', 'create', 'web', 'one');
  expect(taken).toMatch(/^one: .* of memory, the guest stood still for \d+\.\d ms\n$/);
  await expect(home.ok('snapshot', 'create', '--live', '-q', 'web')).resolves.toBe('snapshot1\n');
  expect(await home.state('web')).toBe('running');
  await home.ok('restore', 'web', 'one', '--save-current', 'later');
  await expectGoesOn('web');
  await home.ok('restore', '--force', 'web', 'later');
  await expectGoesOn('web');
  const rows = JSON.parse(await home.ok('snapshot', 'ls', '--json', 'web')) as Record<string, unknown>[];
  expect(
    rows.map(({ name, parent, memory, live, current }) => [name, parent, memory, live, current]),
  ).toEqual([
    ['one', undefined, true, false, false],
    ['snapshot1', 'one', true, true, false],
    ['later', 'snapshot1', true, false, true],
  ]);
});

test('a snapshot of its disks alone is gone back to off', async () => {
  await start('web');
  await home.ok('snapshot', 'create', '--no-memory', 'web', 'disks');
  await home.ok('restore', '--force', 'web', 'disks');
  expect(await home.state('web')).toBe('stopped');
});

test('what is removed while the VM runs is joined when it is stopped', async () => {
  await start('web');
  for (const name of ['one', 'two', 'three']) await home.ok('snapshot', 'create', 'web', name);
  const layers = (): string[] => readdirSync(folderOf('web')).filter((file) => file.startsWith('layer-'));
  await home.ok('snapshot', 'rm', 'web', 'one', 'two');
  expect(layers()).toHaveLength(3);
  await expectGoesOnAfterPause('web');
  // It is to go on, and does not wait for that.
  await home.ok('restore', '--force', 'web', 'three');
  expect(layers()).toHaveLength(3);
  await expectGoesOn('web');
  await home.ok('stop', '--force', 'web');
  expect(layers()).toHaveLength(1);
  await home.ok('snapshot', 'rm', 'web', 'three');
  expect(layers()).toEqual([]);
  await home.ok('start', 'web');
});

test('clones of a VM that runs go on at once, and share its memory', async () => {
  await start('web');
  expect(await home.ok('clone', 'web', 'copy', '--count', '2', '--start')).toBe('copy-1\ncopy-2\n');
  for (const name of ['copy-1', 'copy-2', 'web']) expect(await home.state(name)).toBe('running');
  await expectGoesOn('copy-1');
  await home.ok('delete', '--force', 'copy-1');
  await expectGoesOn('copy-2');
  // The snapshot that they were made of had no name, and is gone.
  expect(readdirSync(join(folderOf('web'), 'snapshots'))).toEqual([]);
});

test('whoever goes on from the same has a VM generation id of its own', async () => {
  await start('web');
  await home.ok('clone', 'web', 'copy', '--count', '2', '--start');
  const ids: string[] = [];
  for (const name of ['web', 'copy-1', 'copy-2']) {
    await home.ok('suspend', name);
    const memory = readFileSync(join(folderOf(name), 'resume', 'memory'));
    ids.push(memory.subarray(VM_GENERATION, VM_GENERATION + 16).toString('hex'));
  }
  expect(new Set(ids).size).toBe(3);
  expect(ids).not.toContain('00'.repeat(16));
});

test('a clone of a snapshot is suspended until it is started, on the same memory', async () => {
  await start('web');
  await home.ok('snapshot', 'create', 'web', 'one');
  await home.ok('clone', 'web@one', 'copy');
  expect(await home.state('copy')).toBe('suspended');
  const memory = statSync(join(folderOf('copy'), 'resume', 'memory'));
  expect(memory.ino).toBe(statSync(join(folderOf('web'), 'snapshots', 'one', 'memory')).ino);
  await home.ok('delete', '--force', 'web');
  await home.ok('start', 'copy');
  await expectGoesOn('copy');
});

test('paused and gone on', async () => {
  await start('web');
  await home.ok('pause', 'web');
  await home.ok('snapshot', 'create', 'web', 'still');
  await home.ok('resume', 'web');
  await expectGoesOnAfterPause('web');
  const kinds = (await home.ok('events', '--json', 'web'))
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { event: string }).event);
  expect(kinds).toEqual(['created', 'started', 'paused', 'snapshot', 'resumed']);
});

async function expectGoesOnAfterPause(name: string): Promise<void> {
  await home.ok('send', '--enter', name, 'after');
  await home.ok('wait', '--for', '/after/', '--timeout', '30', name);
}

test('a damaged one is refused whole, and the VM runs on', async () => {
  await start('web');
  await home.ok('snapshot', 'create', 'web', 'one');
  const state = join(folderOf('web'), 'snapshots', 'one', 'state.json');
  const content = readFileSync(state);
  const damaged = Buffer.from(content);
  damaged[damaged.length >> 1]! ^= 1;
  rmSync(state);
  writeFileSync(state, damaged);
  for (const args of [
    ['restore', '--force', 'web', 'one'],
    ['clone', 'web@one', 'bad'],
  ]) {
    const { code, stderr } = await home.tsvm(...args);
    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining('is damaged: state.json has another checksum'),
    ]);
  }
  expect(await home.state('web')).toBe('running');
  expect(await home.ok('list', '-q')).toBe('web\n');
});
