import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, type TestContext } from 'vitest';
import { kernelOf, type Kernel } from '../../../images/debian/kernel.ts';
import { DebianError } from '../../../images/debian/packages.ts';
import { openKernel } from '../../../src/boot/kernel-file.ts';
import { e820Map, MIB } from '../../../src/boot/layout.ts';
import { loadLinux, type LoadedKernel } from '../../../src/boot/load.ts';
import { bytesSource, readAll } from '../../../src/boot/source.ts';
import { BootError } from '../../../src/boot/types.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { damagedKernels, type GoodFiles } from '../../support/damaged-kernels.ts';
import { guardedMemory } from '../../support/kernels.ts';
import { RSDP } from './support.ts';
import { compress } from './tools.ts';

// What the small kernels of the other tests stand for: the stock kernel that guests boot.

let kernel: Kernel | undefined;
let unavailable = '';
const cacheDir = mkdtempSync(join(tmpdir(), 'tsvm-debian-'));

beforeAll(async () => {
  try {
    kernel = await kernelOf('linux-image-cloud-amd64');
  } catch (error) {
    if (!(error instanceof DebianError)) throw error;
    unavailable = error.message;
  }
}, 300_000);

afterAll(() => rmSync(cacheDir, { recursive: true, force: true }));

function fetched(context: TestContext): Kernel {
  return kernel ?? context.skip(`no Debian kernel: ${unavailable}`);
}

const RAM = 256 * MIB;

async function load(path: string, unpack: boolean): Promise<LoadedKernel & { memory: GuestMemory }> {
  const { source, note } = await openKernel(path, { unpack, cacheDir });
  expect(note).toBeUndefined();
  const memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(RAM) }]);
  const loaded = loadLinux(memory, { kernel: source, cmdline: '', rsdp: RSDP, e820: e820Map(RAM) });
  source.close();
  return { ...loaded, memory };
}

test('Debian builds its kernel with the PVH entry point that unpacked kernels are entered at', (context) => {
  expect(readFileSync(fetched(context).config, 'utf8')).toMatch(/^CONFIG_PVH=y$/m);
});

test("Debian's kernel is unpacked and loaded at its linked address for PVH", async (context) => {
  const { vmlinuz, version } = fetched(context);
  const { memory, format, kernel: range, entry } = await load(vmlinuz, true);
  expect(format).toBe('pvh');
  // CONFIG_PHYSICAL_START of all x86-64 distributions
  expect(range.base).toBe(0x100_0000);
  expect(entry.mode).toBe('protected');
  const image = Buffer.from(memory.view(range.base, range.size)!.buffer, range.base, range.size);
  expect(image.includes(`Linux version ${version} `)).toBe(true);
});

test("Debian's bzImage is loaded packed for its 64-bit entry point", async (context) => {
  const { vmlinuz } = fetched(context);
  const { memory, format, entry } = await load(vmlinuz, false);
  expect(format).toBe('bzImage');
  expect(entry.rip).toBe(0x100_0200);
  const file = readFileSync(vmlinuz);
  const setup = (file[0x1f1]! + 1) * 512;
  expect(file.subarray(setup, setup + 4096).equals(memory.read(0x100_0000, 4096))).toBe(true);
});

test("what is unpacked is what the compressor's own tool unpacks", async (context) => {
  const { vmlinuz, config } = fetched(context);
  const packing = /^CONFIG_KERNEL_(LZ4|XZ|ZSTD|GZIP)=y$/m
    .exec(readFileSync(config, 'utf8'))![1]!
    .toLowerCase();
  const file = readFileSync(vmlinuz);
  const start = (file[0x1f1]! + 1) * 512 + file.readUInt32LE(0x248);
  const payload = file.subarray(start, start + file.readUInt32LE(0x24c) - (packing === 'gzip' ? 0 : 4));
  const expected = compress(context, packing, ['-d', '-c'], payload);

  const { source } = await openKernel(vmlinuz, { cacheDir });
  expect(Buffer.compare(readAll(source), expected)).toBe(0);
  source.close();
});

test('damaged copies are refused with a clear error, or load inside of memory', async (context) => {
  const { vmlinuz } = fetched(context);
  const { source } = await openKernel(vmlinuz, { cacheDir });
  const vmlinux = readAll(source);
  source.close();
  const { memory, intact } = guardedMemory(RAM);
  const outcomes = { refused: 0, loaded: 0 };
  const tryToLoad = (name: string, bytes: Uint8Array): void => {
    try {
      loadLinux(memory, { kernel: bytesSource(name, bytes), cmdline: '', rsdp: RSDP, e820: e820Map(RAM) });
      outcomes.loaded++;
    } catch (error) {
      if (!(error instanceof BootError)) throw error;
      outcomes.refused++;
    }
  };
  for (const files of [{ bzImage: new Uint8Array(readFileSync(vmlinuz)) }, { vmlinux }] as GoodFiles[]) {
    let count = 0;
    for (const { name, make } of damagedKernels(files, 1)) {
      if (++count > 60) break;
      tryToLoad(name, make());
    }
  }
  expect(intact()).toBe(true);
  expect(outcomes.refused).toBeGreaterThan(20);
  expect(outcomes.loaded).toBeGreaterThan(20);
}, 120_000);
