import { gzipSync } from 'node:zlib';
import { beforeAll, describe, expect, test } from 'vitest';
import { ACPI_TABLES, e820Map, GDT, HIGH_RAM, MIB } from '../../../src/boot/layout.ts';
import { loadLinux } from '../../../src/boot/load.ts';
import { bytesSource } from '../../../src/boot/source.ts';
import { BootError } from '../../../src/boot/types.ts';
import { unpackKernel } from '../../../src/boot/unpack.ts';
import {
  countNamed,
  damagedKernels,
  type DamagedFile,
  type GoodFiles,
} from '../../support/damaged-kernels.ts';
import {
  buildBzImage,
  guardedMemory,
  lz4Literals,
  pattern,
  sampleVmlinux,
  withSize,
} from '../../support/kernels.ts';

const SEED = 20_240_607;
/** random ones behind the named ones */
const RANDOM = 300;
const RAM = 48 * MIB;

const vmlinux = sampleVmlinux();
const initrd = pattern(20_000, 8);
const lz4 = buildBzImage({ payload: withSize(lz4Literals(vmlinux), vmlinux.length) });
const gzip = buildBzImage({ payload: gzipSync(vmlinux) });

type Outcome = 'refused' | 'loaded';

const { memory, bytes, intact } = guardedMemory(RAM);

function tryToLoad(kernel: Uint8Array, ramDisk: Uint8Array): Outcome {
  try {
    const loaded = loadLinux(memory, {
      kernel: bytesSource('kernel', kernel),
      initrds: [bytesSource('initrd', ramDisk, 'initrd')],
      cmdline: 'console=ttyS0',
      rsdp: ACPI_TABLES,
      e820: e820Map(RAM),
    });
    // What has been accepted lies where it may.
    const { kernel: range, initrd: disk, entry } = loaded;
    expect(range.base).toBeGreaterThanOrEqual(HIGH_RAM);
    expect(disk!.base).toBeGreaterThanOrEqual(range.base + range.size);
    expect(disk!.base + disk!.size).toBeLessThanOrEqual(RAM);
    expect(entry.rip).toBeGreaterThanOrEqual(range.base);
    expect(entry.rip).toBeLessThan(range.base + range.size);
    return 'loaded';
  } catch (error) {
    return refusal(error);
  }
}

/** Only a BootError of one line is a refusal; whatever else is thrown fails the test. */
function refusal(error: unknown): Outcome {
  if (!(error instanceof BootError)) throw error;
  expect(error.message).toMatch(/^[^\n]{10,400}$/);
  return 'refused';
}

/** The first of a seed. */
function first(files: GoodFiles, count: number, seed = SEED): DamagedFile[] {
  const found: DamagedFile[] = [];
  for (const damaged of damagedKernels(files, seed)) {
    if (found.length === count) break;
    found.push(damaged);
  }
  return found;
}

const files = { bzImage: lz4, vmlinux, initrd };
const named = countNamed(files);

describe('damaged files', () => {
  beforeAll(() => {
    bytes.fill(0);
  });

  test('are many, and each has a name of its own', () => {
    const names = first(files, named).map(({ name }) => name);
    expect(named).toBeGreaterThan(300);
    expect(new Set(names).size).toBe(named);
  });

  test('are the same for the same seed and others for another', () => {
    const random = (seed: number): string[] =>
      first(files, named + 20, seed)
        .slice(named)
        .map(({ make }) => Buffer.from(make()).toString('base64'));
    expect(random(1)).toEqual(random(1));
    expect(random(1)).not.toEqual(random(2));
  });

  test('differ from the good file', () => {
    for (const { name, of, make } of first(files, named)) {
      expect(Buffer.compare(make(), files[of]), name).not.toBe(0);
    }
  });

  test('are refused with a clear error, or load inside of memory and beside what is reserved', () => {
    const outcomes = { refused: 0, loaded: 0 };
    for (const { name, of, make } of first(files, named + RANDOM)) {
      const damaged = make();
      let outcome: Outcome;
      try {
        outcome = of === 'initrd' ? tryToLoad(vmlinux, damaged) : tryToLoad(damaged, initrd);
      } catch (error) {
        throw new Error(`${name} made the loader fail`, { cause: error });
      }
      outcomes[outcome]++;
      expect(intact(), `${name} wrote outside of memory`).toBe(true);
    }
    expect(bytes.subarray(ACPI_TABLES, HIGH_RAM).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(0, GDT).every((byte) => byte === 0)).toBe(true);
    expect(outcomes.refused).toBeGreaterThan(100);
    expect(outcomes.loaded).toBeGreaterThan(100);
  });

  test.each([
    ['lz4', lz4],
    ['gzip', gzip],
  ])('with a packed kernel are refused with a clear error, or unpack: %s', async (_, bzImage) => {
    const outcomes = { refused: 0, loaded: 0 };
    const count = countNamed({ bzImage }) + RANDOM;
    for (const { name, make } of first({ bzImage }, count)) {
      try {
        const unpacked = await unpackKernel(bytesSource('kernel', make()), true);
        outcomes[tryToLoad(unpacked.bytes, initrd)]++;
      } catch (error) {
        try {
          outcomes[refusal(error)]++;
        } catch (cause) {
          throw new Error(`${name} made the unpacker fail`, { cause });
        }
      }
    }
    expect(intact()).toBe(true);
    expect(outcomes.refused).toBeGreaterThan(50);
    expect(outcomes.loaded).toBeGreaterThan(50);
  });
});
