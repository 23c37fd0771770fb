import { execaSync } from 'execa';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openKernel, type OpenedKernel } from '../../../src/boot/kernel-file.ts';
import { e820Map, MIB } from '../../../src/boot/layout.ts';
import { loadLinux } from '../../../src/boot/load.ts';
import { openSource, readAll } from '../../../src/boot/source.ts';
import type { BootError, KernelFormat } from '../../../src/boot/types.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import {
  buildBzImage,
  buildElf,
  lz4Literals,
  pattern,
  sampleVmlinux,
  withSize,
} from '../../support/kernels.ts';
import { expectBootError, expectBootRejection } from './support.ts';

let root: string;

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'tsvm-kernel-'));
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

function file(name: string, content: Uint8Array | string): string {
  const path = join(root, name);
  writeFileSync(path, content);
  return path;
}

const open = (path: string, unpack = true): Promise<OpenedKernel> =>
  openKernel(path, { unpack, cacheDir: join(root, 'cache') });

async function formatOf(path: string, unpack = true): Promise<KernelFormat> {
  const { source } = await open(path, unpack);
  const memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(64 * MIB) }]);
  const loaded = loadLinux(memory, { kernel: source, cmdline: '', rsdp: 0, e820: e820Map(64 * MIB) });
  source.close();
  return loaded.format;
}

/** How many files this process has open. */
const openFiles = (): number => readdirSync('/proc/self/fd').length;

const packedBzImage = (): Uint8Array =>
  buildBzImage({ payload: withSize(lz4Literals(sampleVmlinux()), sampleVmlinux().length) });

describe('a kernel file is recognised by its content, whatever its name', () => {
  test('vmlinux with a PVH note', async () => {
    expect(await formatOf(file('a.txt', sampleVmlinux()))).toBe('pvh');
  });

  test('vmlinux without', async () => {
    expect(await formatOf(file('b.gz', sampleVmlinux({ pvh: false })))).toBe('elf64');
  });

  test('bzImage, whose kernel is unpacked', async () => {
    expect(await formatOf(file('c', packedBzImage()))).toBe('pvh');
  });

  test('bzImage, whose kernel is left packed where asked for', async () => {
    expect(await formatOf(file('d', packedBzImage()), false)).toBe('bzImage');
  });

  test('vmlinux packed as a whole, also where nothing else is to be unpacked', async () => {
    const path = file('e', gzipSync(sampleVmlinux()));
    expect(await formatOf(path)).toBe('pvh');
    expect(await formatOf(path, false)).toBe('pvh');
  });

  test('bzImage packed as a whole, unpacked as far as asked for', async () => {
    const path = file('f', gzipSync(packedBzImage()));
    expect(await formatOf(path)).toBe('pvh');
    expect(await formatOf(path, false)).toBe('bzImage');
  });

  test('bzImage with a payload of an unknown kind boots packed, with a note', async () => {
    const path = file('g', buildBzImage({ payload: pattern(64, 1) }));
    const { note, source } = await open(path);
    source.close();
    expect(note).toMatch(/^the kernel in .*\/g is packed with an unknown format, left packed$/);
    expect(await formatOf(path)).toBe('bzImage');
  });
});

describe('what is no kernel is refused with a line that names the file', () => {
  test.each<[string, string | Uint8Array, BootError['code'], RegExp]>([
    ['an empty file', '', 'EKERNEL_FORMAT', /is no kernel: the file is empty$/],
    ['a text file', '#!/bin/sh\necho hello\n', 'EKERNEL_FORMAT', /is no kernel: it is a text file$/],
    ['garbage', pattern(10_000, 3), 'EKERNEL_FORMAT', /neither a bzImage nor an ELF file/],
    ['one byte', Uint8Array.of(0), 'EKERNEL_FORMAT', /neither a bzImage nor an ELF file/],
    ['a cut bzImage', buildBzImage().subarray(0, 0x180), 'EKERNEL_TRUNCATED', /inside the setup header$/],
    ['a cut gzip file', gzipSync(pattern(5000, 1)).subarray(0, 700), 'EKERNEL_PACKED', /gzip data does not/],
    ['bzip2', 'BZh91AY&SY', 'EKERNEL_UNSUPPORTED', /packed with bzip2.*\(gzip, xz, zstd, lz4 are\)$/],
    ['an arm64 Image', foreign(0x38, 'ARMd'), 'EKERNEL_ARCH', /is an arm64 kernel Image/],
    ['a RISC-V Image', foreign(0x38, 'RSC\x05'), 'EKERNEL_ARCH', /is a RISC-V kernel Image/],
    ['an EFI zboot image', foreign(4, 'zimg'), 'EKERNEL_ARCH', /is an EFI zboot image/],
  ])('%s', async (what, content, code, message) => {
    const path = file(what.replaceAll(' ', '-'), content);
    await expectBootRejection(open(path), code, message);
    await expectBootRejection(open(path), code, new RegExp(`^${path}`));
  });

  test('an ELF file for another machine', async () => {
    const path = file('arm', buildElf({ machine: 183, segments: [] }));
    await expect(formatOf(path)).rejects.toMatchObject({ code: 'EKERNEL_ARCH' });
  });

  test('a directory', async () => {
    mkdirSync(join(root, 'directory'));
    await expectBootRejection(open(join(root, 'directory')), 'EKERNEL_FILE', /directory: it is a directory$/);
  });

  test('a file that is not there', async () => {
    const path = join(root, 'none');
    await expectBootRejection(open(path), 'EKERNEL_FILE', /none: ENOENT: no such file or directory$/);
  });

  test('a device', async () => {
    await expectBootRejection(open('/dev/zero'), 'EKERNEL_FILE', /no regular file$/);
  });

  test('a FIFO, without waiting for its other end', async () => {
    const path = join(root, 'fifo');
    execaSync('mkfifo', [path]);
    await expectBootRejection(open(path), 'EKERNEL_FILE', /no regular file$/);
  });

  test('a file that may not be read', async (context) => {
    context.skip(process.getuid?.() === 0, 'root may read everything');
    const path = file('secret', sampleVmlinux());
    chmodSync(path, 0);
    await expectBootRejection(open(path), 'EKERNEL_FILE', /EACCES: permission denied$/);
  });
});

test('an initrd that is not there is told apart from a kernel', () => {
  const path = join(root, 'no-initrd');
  expectBootError(() => openSource(path, 'initrd'), 'EINITRD', /^cannot open initrd .*no-initrd: ENOENT/);
});

test('a file that becomes shorter while it is read is an error, not silence', () => {
  const path = file('shrinks', pattern(1000, 1));
  const source = openSource(path);
  writeFileSync(path, pattern(500, 1));
  expectBootError(() => readAll(source), 'EKERNEL_TRUNCATED', /became shorter while it was read/);
  source.close();
});

test.each([
  [-1, 10],
  [995, 10],
  [1001, 0],
  [Number.NaN, 1],
  [2 ** 60, 10],
])('a read at %d of %d bytes is refused outside of 1000', (offset, length) => {
  const source = openSource(file('thousand', pattern(1000, 1)));
  expectBootError(() => source.read(offset, new Uint8Array(length)), 'EKERNEL_TRUNCATED', /is truncated/);
  source.close();
});

test('no file stays open, neither after a refusal nor after close', async () => {
  const good = file('leak-good', packedBzImage());
  const bad = file('leak-bad', 'text');
  await formatOf(good);
  const before = openFiles();
  for (let i = 0; i < 5; i++) {
    await formatOf(good);
    await open(bad).catch(() => undefined);
    await open(root).catch(() => undefined);
  }
  expect(openFiles()).toBe(before);
});

/** An "MZ" file with a magic at an offset. */
function foreign(offset: number, magic: string): Uint8Array {
  const bytes = new Uint8Array(4096);
  bytes.set(new TextEncoder().encode('MZ'));
  bytes.set(new TextEncoder().encode(magic), offset);
  return bytes;
}
