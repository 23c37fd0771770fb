import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MIB } from '../../src/boot/layout.ts';
import type { VmExit } from '../../src/vmm/types.ts';
import { startVm } from '../../src/vmm/vm.ts';
import { buildGuestProgram } from '../guests/build.ts';
import { blockStamp, fieldOf, parseResult } from '../guests/disk-load.ts';

const BLOCK = 4096;
const DISK = 8 * MIB;
const LIMIT_MS = 50_000;

let folder: string;
let kernel: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tsvm-disk-load-'));
  kernel = (await buildGuestProgram('disk-load')).elf;
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A file of zeros, all of it a hole. */
async function emptyDisk(name: string, size = DISK): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, '');
  await truncate(path, size);
  return path;
}

async function runProgram(
  path: string,
  transport: 'pci' | 'mmio-cmdline',
  words: readonly string[],
): Promise<{ exit: VmExit; lines: string[] }> {
  const vm = await startVm({
    kernel,
    cmdline: words.join(' '),
    memory: 64 * MIB,
    disks: [{ path, format: 'raw' }],
    transport,
    noReboot: true,
  });
  let text = '';
  vm.serial.onData((bytes) => (text += Buffer.from(bytes).toString()));
  const timer = setTimeout(() => void vm.stop(), LIMIT_MS);
  const exit = await vm.exited;
  clearTimeout(timer);
  return { exit, lines: text.split('\n').map((line) => line.trim()) };
}

describe.each(['pci', 'mmio-cmdline'] as const)(
  'the disk as a ring-3 guest drives it over %s',
  (transport) => {
    it('holds what was written, in the guest and in the file', async () => {
      const path = await emptyDisk(`verify-${transport}`);
      const { exit, lines } = await runProgram(path, transport, [`verify=${DISK}`]);
      expect(exit, lines.join('\n')).toMatchObject({ reason: 'poweroff' });
      expect(lines).toContain(`verified bytes=${DISK}`);
      expect(lines.at(-2)).toBe('end');
      const file = await readFile(path);
      for (let block = 0; block < DISK / BLOCK; block++)
        expect(file.readBigUInt64LE(block * BLOCK)).toBe(blockStamp(block));
    });

    it.each([
      ['with indirect descriptors and event indices', [], '1', '1'],
      ['without either', ['indirect=0', 'event_idx=0'], '0', '0'],
      ['in segments of 8 KiB', ['segment=8192'], '1', '1'],
    ])('carries reads and writes at once %s', async (_, words, indirect, eventIdx) => {
      const path = await emptyDisk(`load-${transport}`);
      const { exit, lines } = await runProgram(path, transport, [
        ...[`verify=${DISK}`, 'stamped=1', ...words],
        ...['run=randwrite:4K:32:50', 'run=randread:4K:32:50', 'run=write:1M:2:50', 'run=read:1M:2:50'],
      ]);
      expect(exit, lines.join('\n')).toMatchObject({ reason: 'poweroff' });
      const disk = lines.find((line) => line.startsWith('disk '))!;
      expect(fieldOf(disk, 'indirect')).toBe(indirect);
      expect(fieldOf(disk, 'event_idx')).toBe(eventIdx);
      const results = lines.flatMap((line) => parseResult(line) ?? []);
      expect(results.map(({ op }) => op)).toEqual(['randwrite', 'randread', 'write', 'read']);
      for (const { ops } of results) expect(ops).toBeGreaterThan(0);
    });

    it('is seen to hold other data than it ought to', async () => {
      const path = await emptyDisk(`wrong-${transport}`);
      // Zeros are not what a stamped disk has.
      const { lines } = await runProgram(path, transport, ['stamped=1', 'run=randread:4K:8:100']);
      expect(lines.filter((line) => line.startsWith('error: wrong data block='))).toHaveLength(1);
    });
  },
);

describe('the guest program', () => {
  it.each([
    ['run=randread:5000:1:10', 'a request is 4K to 1M'],
    ['run=trim:4K:1:10', 'run= knows randread, randwrite, read and write'],
    ['run=read:4K:1', 'run= is OP:SIZE:DEPTH:MS'],
    [`verify=${2 * DISK}`, 'verify= is not within the disk'],
    ['indirect=0 run=randread:4K:128:10', 'the queue has no room for so many requests'],
    ['segment=2048 run=read:1M:1:10', 'a request has more segments than the device takes'],
    ['disk=1', 'no virtio disk was found'],
  ])('refuses %s', async (words, message) => {
    const path = await emptyDisk('refused');
    const { lines } = await runProgram(path, 'pci', [words]);
    expect(lines).toContain(`error: ${message}`);
  });
});
