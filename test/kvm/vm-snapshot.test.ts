/** Snapshots by the VMM itself, of the guest that echoes what is typed. */
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { VM_GENERATION } from '../../src/boot/layout.ts';
import { IoRing } from '../../src/kvm/io-ring.ts';
import { createQcow2 } from '../../src/storage/qcow2/create.ts';
import { resolveChain } from '../../src/storage/qcow2/chain.ts';
import { formatState, parseState, readState, STATE_FILE } from '../../src/vmm/snapshot/state-file.ts';
import { TOUCHED_FILE } from '../../src/vmm/snapshot/touched.ts';
import type { RunningVm, VmOptions } from '../../src/vmm/types.ts';
import { startVm } from '../../src/vmm/vm.ts';
import { buildGuestProgram } from '../guests/build.ts';

const MEMORY = 64 * 2 ** 20;

const scratch = mkdtempSync(join(tmpdir(), 'tsvm-snapshot-'));
const running = new Set<RunningVm>();
let elf: string;
let folders = 0;

beforeAll(async () => {
  ({ elf } = await buildGuestProgram('echo'));
});
afterEach(async () => {
  for (const vm of running) await vm.stop();
  running.clear();
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function newFolder(): string {
  const folder = join(scratch, String(folders++));
  mkdirSync(folder);
  return folder;
}

async function start(options: Partial<VmOptions> = {}): Promise<RunningVm> {
  const vm = await startVm({ kernel: elf, memory: MEMORY, rng: true, balloon: {}, ...options });
  running.add(vm);
  return vm;
}

/** The guest answers. */
async function echoes(vm: RunningVm, word: string): Promise<void> {
  const before = vm.serial.tail().length;
  await vm.serial.write(`${word}\n`);
  await expect.poll(() => vm.serial.tail().slice(before)).toContain(word);
}

async function stop(vm: RunningVm): Promise<void> {
  await vm.stop();
  running.delete(vm);
}

describe.each(['pci', 'mmio'] as const)('over %s', (transport) => {
  for (const cpus of [1, 4]) {
    for (const live of [false, true]) {
      test(`${live ? 'live' : 'paused'}, ${cpus} vCPUs: the VM goes on, and so does a second one`, async () => {
        const vm = await start({ transport, cpus });
        await echoes(vm, 'first');
        const folder = newFolder();
        const { stopMs, memoryBytes } = await vm.snapshot({ folder, live });
        expect(stopMs).toBeGreaterThan(0);
        expect(memoryBytes).toBeGreaterThan(0);
        await echoes(vm, 'second');
        const other = await start({ transport, cpus, restore: { folder } });
        expect(other.serial.tail()).toBe('');
        await echoes(other, 'third');
        await echoes(vm, 'fourth');
      });
    }
  }
});

test('a snapshot of a VM that goes on from one has the changes alone, and the files below by name', async () => {
  const vm = await start();
  await echoes(vm, 'one');
  const first = newFolder();
  await vm.snapshot({ folder: first });
  await stop(vm);
  const keep = join(scratch, 'keep');
  const second = await start({ restore: { folder: first, keep } });
  rmSync(first, { recursive: true });
  await echoes(second, 'two');
  const folder = newFolder();
  const { memoryBytes } = await second.snapshot({ folder });
  expect(memoryBytes).toBeLessThan(1024 * 1024);
  await stop(second);
  rmSync(keep, { recursive: true });
  expect(readdirSync(folder).sort()).toEqual(['memory', 'memory.0', STATE_FILE, TOUCHED_FILE].sort());
  const third = await start({ restore: { folder } });
  await echoes(third, 'three');
});

test('what the first one touched is there before the second one runs; nonsense in the list is nobody’s harm', async () => {
  const vm = await start();
  await echoes(vm, 'one');
  const folder = newFolder();
  await vm.snapshot({ folder });
  await stop(vm);
  const list = join(folder, TOUCHED_FILE);
  const first = await start({ restore: { folder, prefetch: true } });
  await echoes(first, 'two');
  await expect.poll(() => statSync(list).size, { timeout: 10_000 }).toBeGreaterThan(0);
  await stop(first);
  writeFileSync(list, JSON.stringify({ ranges: [[0, MEMORY]] }));
  const keep = join(scratch, 'keep-prefetched');
  const second = await start({ restore: { folder, prefetch: true, keep } });
  await echoes(second, 'three');
  // None of it counts as changed.
  const later = newFolder();
  expect((await second.snapshot({ folder: later })).memoryBytes).toBeLessThan(1024 * 1024);
  await stop(second);
  const third = await start({ restore: { folder: later, prefetch: true } });
  await echoes(third, 'four');
  await stop(third);
  for (const ranges of [
    [[-1, 5]],
    [[0, MEMORY + 2 ** 21]],
    [
      [2 ** 21, 2 ** 21],
      [0, 2 ** 21],
    ],
    [[1, 2]],
    'x',
    [[0]],
  ]) {
    writeFileSync(list, JSON.stringify({ ranges }));
    const other = await start({ restore: { folder, prefetch: true } });
    expect(statSync(list).size).toBe(0);
    await echoes(other, 'five');
    await stop(other);
  }
});

test('a copy has another VM generation id, with the event of it, before it runs', async () => {
  const vm = await start();
  const folders = [newFolder(), newFolder(), newFolder()] as const;
  await vm.snapshot({ folder: folders[0], stop: true });
  await stop(vm);
  const same = await start({ restore: { folder: folders[0] } });
  await same.snapshot({ folder: folders[1], stop: true });
  await stop(same);
  const generation = '00112233-4455-6677-8899-aabbccddeeff';
  const copy = await start({ restore: { folder: folders[0], generation } });
  await copy.snapshot({ folder: folders[2], stop: true });
  const [first, second, third] = folders.map((folder) => ({
    id: readFileSync(join(folder, 'memory'))
      .subarray(VM_GENERATION, VM_GENERATION + 16)
      .toString('hex'),
    events: (readState(join(folder, STATE_FILE)).board.power as { gpe: { status: number } }).gpe.status,
  }));
  expect(first!.id).not.toBe('00'.repeat(16));
  expect([first!.events, second]).toEqual([0, first]);
  expect(third).toEqual({ id: '33221100554477668899aabbccddeeff', events: 1 });
});

test('a VM generation id is a UUID', async () => {
  const restore = { folder: newFolder(), generation: 'another' };
  await expect(start({ restore })).rejects.toThrow("a VM generation id is a UUID, not 'another'");
});

test('a paused VM stays so, and is saved as it stands', async () => {
  const vm = await start();
  await vm.pause();
  const folder = newFolder();
  await vm.snapshot({ folder });
  const { length } = vm.serial.tail();
  void vm.serial.write('unheard\n');
  await sleep(100);
  expect(vm.serial.tail()).toHaveLength(length);
  await vm.resume();
  await expect.poll(() => vm.serial.tail()).toContain('unheard');
});

test('a VM that went on from a snapshot boots when it is reset', async () => {
  const vm = await start();
  const folder = newFolder();
  await echoes(vm, 'here');
  await vm.snapshot({ folder });
  await stop(vm);
  const other = await start({ restore: { folder } });
  await other.reset();
  await expect.poll(() => other.serial.tail()).toContain('echo: ready');
});

test.each([false, true])('qcow2 disks are frozen, live: %s: nobody writes to the layer', async (live) => {
  const folder = newFolder();
  const path = join(folder, 'root.qcow2');
  await createQcow2(path, { size: 2 ** 20 });
  const { ino } = statSync(path);
  const vm = await start({ disks: [{ path, format: 'qcow2' }] });
  await echoes(vm, 'disk');
  const layer = join(folder, 'layer-1.qcow2');
  const snapshot = newFolder();
  await vm.snapshot({ folder: snapshot, live, layers: [{ disk: 0, path: layer }] });
  expect(statSync(layer).ino).toBe(ino);
  expect(statSync(layer).mode & 0o777).toBe(0o400);
  const second = join(folder, 'layer-2.qcow2');
  await vm.snapshot({ folder: newFolder(), live, layers: [{ disk: 0, path: second }] });
  await stop(vm);
  const ring = new IoRing();
  expect(resolveChain(ring, path, 'qcow2', {}).map((each) => each.path)).toEqual([path, second, layer]);
  ring.close();
  const other = await start({ disks: [{ path, format: 'qcow2' }], restore: { folder: snapshot } });
  await echoes(other, 'again');
});

describe('what fails leaves all as it was', () => {
  test('a raw disk', async () => {
    const folder = newFolder();
    const path = join(folder, 'disk.raw');
    writeFileSync(path, Buffer.alloc(2 ** 20));
    const vm = await start({ disks: [{ path }] });
    const snapshot = newFolder();
    const layers = [{ disk: 0, path: join(folder, 'layer.raw') }];
    await expect(vm.snapshot({ folder: snapshot, layers })).rejects.toMatchObject({ code: 'EDISK' });
    expect(readdirSync(snapshot)).toEqual([]);
    await echoes(vm, 'on');
  });

  test('a layer whose name is taken', async () => {
    const folder = newFolder();
    const path = join(folder, 'root.qcow2');
    await createQcow2(path, { size: 2 ** 20 });
    const vm = await start({ disks: [{ path, format: 'qcow2' }] });
    const layer = join(folder, 'layer.qcow2');
    writeFileSync(layer, 'mine');
    const snapshot = newFolder();
    await expect(vm.snapshot({ folder: snapshot, layers: [{ disk: 0, path: layer }] })).rejects.toThrow(
      /EEXIST/,
    );
    expect(readdirSync(snapshot)).toEqual([]);
    expect(readFileSync(layer, 'utf8')).toBe('mine');
    await echoes(vm, 'on');
  });

  test('a folder that has a snapshot, or is not there', async () => {
    const vm = await start();
    const folder = newFolder();
    await vm.snapshot({ folder });
    const before = readFileSync(join(folder, STATE_FILE));
    await expect(vm.snapshot({ folder })).rejects.toMatchObject({ code: 'EEXIST' });
    expect(readFileSync(join(folder, STATE_FILE)).equals(before)).toBe(true);
    expect(existsSync(join(folder, 'memory'))).toBe(true);
    await expect(vm.snapshot({ folder: join(scratch, 'none') })).rejects.toMatchObject({ code: 'ENOENT' });
    await echoes(vm, 'on');
  });

  test('a VM that has ended', async () => {
    const vm = await start();
    await stop(vm);
    await expect(vm.snapshot({ folder: newFolder() })).rejects.toMatchObject({ code: 'EENDED' });
  });
});

describe('a snapshot is refused whole', () => {
  let folder: string;
  beforeAll(async () => {
    const vm = await start();
    folder = newFolder();
    await vm.snapshot({ folder });
  });

  /** A copy whose state was tampered with. */
  function altered(change: (text: string) => string): string {
    const copy = newFolder();
    linkSync(join(folder, 'memory'), join(copy, 'memory'));
    writeFileSync(join(copy, STATE_FILE), change(readFileSync(join(folder, STATE_FILE), 'utf8')));
    return copy;
  }

  const restore = (from: string, options: Partial<VmOptions> = {}): Promise<RunningVm> =>
    start({ ...options, restore: { folder: from } });

  test.each<readonly [what: string, code: string, change: (text: string) => string]>([
    ['cut', 'EDAMAGED', (text) => text.slice(0, text.length / 2)],
    ['empty', 'EDAMAGED', () => ''],
    ['with a changed digit', 'EDAMAGED', (text) => text.replace(/"size":\d/, '"size":9')],
    ['of a newer tsvm', 'EVERSION', (text) => text.replace('"version":1', '"version":2')],
    ['of no tsvm', 'EFOREIGN', () => '{"version":1}'],
    ['a list', 'EFOREIGN', () => '[]'],
  ])('%s', async (_, code, change) => {
    await expect(restore(altered(change))).rejects.toMatchObject({ code, name: 'SnapshotError' });
  });

  test('of another machine', async () => {
    await expect(restore(folder, { memory: MEMORY * 2 })).rejects.toMatchObject({ code: 'EFOREIGN' });
    await expect(restore(folder, { cpus: 2 })).rejects.toThrow(/cpus was 1, and is to be 2/);
    await expect(restore(folder, { transport: 'mmio' })).rejects.toMatchObject({ code: 'EFOREIGN' });
    await expect(restore(folder, { rng: false })).rejects.toThrow(/other devices: rng0, balloon0/);
  });

  test('without memory, or with some that was cut', async () => {
    const none = altered((text) => text);
    rmSync(join(none, 'memory'));
    await expect(restore(none)).rejects.toMatchObject({ code: 'EDAMAGED' });
    const cut = altered((text) => text);
    rmSync(join(cut, 'memory'));
    writeFileSync(join(cut, 'memory'), '');
    chmodSync(join(cut, 'memory'), 0o600);
    truncateSync(join(cut, 'memory'), MEMORY - 4096);
    await expect(restore(cut)).rejects.toThrow(/was cut or changed/);
  });

  test("with a processor's feature that this host has not", async () => {
    const path = join(folder, STATE_FILE);
    const text = readFileSync(path, 'utf8');
    const { machine } = JSON.parse(text) as { machine: { board: { vcpus: { cpuid: string }[] } } };
    const cpuid = Buffer.from(machine.board.vcpus[0]!.cpuid, 'base64');
    // All bits of the registers of leaf 7, subleaf 0.
    for (let at = 8; at < cpuid.length; at += 40)
      if (cpuid.readUInt32LE(at) === 7 && cpuid.readUInt32LE(at + 4) === 0)
        cpuid.fill(0xff, at + 16, at + 28);
    machine.board.vcpus[0]!.cpuid = cpuid.toString('base64');
    const copy = altered(() => formatState(machine as unknown as Parameters<typeof formatState>[0]));
    await expect(restore(copy)).rejects.toMatchObject({ code: 'EHOST' });
  });

  test('the state is read as it was written', () => {
    const path = join(folder, STATE_FILE);
    const text = readFileSync(path, 'utf8');
    const { machine } = JSON.parse(text) as { machine: Parameters<typeof formatState>[0] };
    expect(formatState(machine)).toBe(text);
    expect(parseState(text, path).uuid).toBe(machine.uuid);
    expect(readState(path).board.vcpus).toHaveLength(1);
  });

  test('and it is good itself', async () => {
    await echoes(await restore(folder), 'fine');
  });
});
