/** The balloon and the entropy device on memory of the host as a VM has it. */
import { closeSync, mkdtempSync, openSync, read, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { BalloonDevice } from '../../src/devices/balloon/device.ts';
import { EntropyDevice } from '../../src/devices/rng/device.ts';
import { GuestRam, type GuestRamOptions } from '../../src/kvm/memory.ts';
import type { VirtioDevice } from '../../src/virtio/device.ts';
import { residentOf } from '../support/smaps.ts';
import type { Placed } from '../support/virtio/driver-queue.ts';
import { FakeMachine, PAGE } from '../support/virtio/machine.ts';
import { Rig } from '../support/virtio/rig.ts';

const MIB = 2 ** 20;
/** of the guest, in bytes: no other mapping of this process is so large */
const SIZE = 43 * MIB;
/** what the guest gives away */
const GIVEN = { base: 8 * MIB, size: 32 * MIB } as const;
const REPORTING = 4;

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'tsvm-give-back-'))));
afterAll(() => rmSync(folder, { recursive: true }));

/** A file as large as the guest. */
function sharedFile(): string {
  const path = join(folder, 'ram');
  writeFileSync(path, '');
  truncateSync(path, SIZE);
  return path;
}

const open: GuestRam[] = [];
afterEach(() => {
  for (const ram of open.splice(0)) ram.close();
});

function start(device: VirtioDevice, options: Partial<GuestRamOptions> = {}): { rig: Rig; ram: GuestRam } {
  const ram = new GuestRam({ ranges: [{ base: 0, size: SIZE }], hugePages: 'none', ...options });
  open.push(ram);
  const rig = new Rig(device, { transport: 'pci', memory: 'one window' }, new FakeMachine(ram.memory));
  rig.start({ queueSize: 64 });
  return { rig, ram };
}

const balloon = (): BalloonDevice => new BalloonDevice({ name: 'balloon0', memory: SIZE });

/** As Linux does it: 256 pages a request, from the top down. */
async function inflate(rig: Rig): Promise<void> {
  const [array] = rig.queue(0).place([{ bytes: new Uint8Array(1024) }]);
  for (let end = GIVEN.base + GIVEN.size; end > GIVEN.base; end -= 256 * PAGE) {
    const numbers = Uint32Array.from({ length: 256 }, (_, i) => end / PAGE - 1 - i);
    rig.machine.memory.write(array!.address, new Uint8Array(numbers.buffer));
    await give(rig, 0, [array!]);
  }
}

/** As Linux does it: 32 ranges of 2 MiB a request. */
async function report(rig: Rig): Promise<void> {
  const blocks = Array.from({ length: GIVEN.size / (2 * MIB) }, (_, i) => ({
    address: GIVEN.base + 2 * MIB * i,
    length: 2 * MIB,
    writable: true,
  }));
  await give(rig, REPORTING, blocks);
}

async function give(rig: Rig, index: number, buffers: readonly Placed[]): Promise<void> {
  const queue = rig.queue(index);
  queue.chain(buffers);
  queue.publish();
  rig.driver.notify(index);
  await rig.machine.until(() => queue.hasUsed);
  queue.collect();
}

describe.each([
  ['inflating the balloon', inflate],
  ['free page reporting', report],
])('%s', (_, giveAll) => {
  test.each([
    ['anonymous', {}],
    ['anonymous, in huge pages where the host has them', { hugePages: 'transparent' }],
    ['memfd', { backing: { kind: 'memfd' } }],
  ] as const)('takes memory from the process, and it is zeros at the next touch (%s)', async (_, options) => {
    const device = balloon();
    const { rig, ram } = start(device, options);
    ram.memory.fill(GIVEN.base, GIVEN.size, 0x77);
    const before = residentOf(SIZE);
    expect(before).toBeGreaterThanOrEqual(GIVEN.size);
    await giveAll(rig);
    // exact but for the small pages that the rings have brought in meanwhile
    expect(before - residentOf(SIZE)).toBeGreaterThanOrEqual(GIVEN.size - MIB);
    expect(device.counters.reclaimed).toBe(GIVEN.size);
    const bytes = ram.memory.view(GIVEN.base, GIVEN.size)!;
    expect(Buffer.alloc(GIVEN.size).equals(bytes)).toBe(true);
    bytes.fill(1);
    expect(residentOf(SIZE)).toBeGreaterThanOrEqual(GIVEN.size);
  });
});

test('what lies beside pages in the balloon stays', async () => {
  const { rig, ram } = start(balloon());
  ram.memory.fill(4 * MIB, 39 * MIB, 0x77);
  await inflate(rig);
  const around = [GIVEN.base - 1, GIVEN.base, GIVEN.base + GIVEN.size - 1, GIVEN.base + GIVEN.size];
  expect(around.map((at) => ram.memory.readU8(at))).toEqual([0x77, 0, 0, 0x77]);
});

test('pages that I/O is reading into may be given away meanwhile', async () => {
  const device = balloon();
  const { rig, ram } = start(device);
  const file = openSync('/dev/urandom', 'r');
  const target = ram.memory.view(GIVEN.base, GIVEN.size)!;
  try {
    for (let round = 0; round < 4; round++) {
      const done = new Promise<number>((resolve, reject) =>
        read(file, target, 0, target.length, null, (error, count) =>
          error ? reject(error) : resolve(count),
        ),
      );
      await inflate(rig);
      expect(await done).toBeGreaterThan(0);
    }
  } finally {
    closeSync(file);
  }
  expect(rig.driver.status).toBe(0x0f);
  expect(device.counters.failures).toBe(0);
});

test('memory that stays with its file is not given away, and the driver notices nothing', async () => {
  const lines: string[] = [];
  const device = new BalloonDevice({ name: 'balloon0', memory: SIZE, log: (line) => lines.push(line) });
  const { rig, ram } = start(device, {
    backing: { kind: 'file', path: sharedFile(), shared: true },
  });
  ram.memory.fill(GIVEN.base, GIVEN.size, 0x77);
  await inflate(rig);
  expect(ram.memory.readU8(GIVEN.base)).toBe(0x77);
  expect(lines).toEqual([
    'balloon0: what the guest gives up stays allocated: RAM is a file that others may share',
  ]);
});

test('the entropy device fills pages of the host, over the border of two windows too', async () => {
  const border = 2 ** 31;
  const ram = new GuestRam({ ranges: [{ base: 0, size: border + MIB }], hugePages: 'none' });
  open.push(ram);
  const device = new EntropyDevice({ name: 'rng0' });
  const rig = new Rig(device, { transport: 'pci', memory: 'one window' }, new FakeMachine(ram.memory));
  rig.start();
  await give(rig, 0, [{ address: border - 512, length: 1024, writable: true }]);
  const bytes = ram.memory.read(border - 1024, 2048);
  const zeros = (from: number, to: number): number =>
    bytes.subarray(from, to).filter((byte) => byte === 0).length;
  expect([zeros(0, 512), zeros(1536, 2048)]).toEqual([512, 512]);
  expect(zeros(512, 1024)).toBeLessThan(64);
  expect(zeros(1024, 1536)).toBeLessThan(64);
});
