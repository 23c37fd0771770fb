import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execFileSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { KvmError } from '../../src/kvm/errors.ts';
import { GuestFault } from '../../src/kvm/guest-memory.ts';
import { GuestRam, type GuestRamOptions } from '../../src/kvm/memory.ts';
import { PageRanges } from '../../src/kvm/page-ranges.ts';
import { mappingsOf, residentOf } from '../support/smaps.ts';

const PAGE = 4096;
const MIB = 2 ** 20;
const GIB = 2 ** 30;

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'tsvm-memory-'))));
afterAll(() => rmSync(folder, { recursive: true }));

const open: GuestRam[] = [];
afterEach(() => {
  for (const ram of open.splice(0)) ram.close();
});

function guestRam(options: Partial<GuestRamOptions> & { size?: number } = {}): GuestRam {
  const { size = MIB, ...rest } = options;
  const ram = new GuestRam({ ranges: [{ base: 0, size }], ...rest });
  open.push(ram);
  return ram;
}

function file(name: string, size: number): string {
  const path = join(folder, name);
  writeFileSync(
    path,
    Uint8Array.from({ length: size }, (_, i) => i >> 8),
  );
  return path;
}

function thrown(body: () => unknown): unknown {
  try {
    body();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

describe('backings', () => {
  test('anonymous memory is zeros and has no descriptor', () => {
    const ram = guestRam();
    expect(ram.memory.read(0, MIB).every((byte) => byte === 0)).toBe(true);
    expect(ram.native.fd).toBe(-1);
    expect(ram.native.size).toBe(MIB);
  });

  test('memfd memory is what its descriptor gives another process', () => {
    const ram = guestRam({ backing: { kind: 'memfd' } });
    ram.memory.write(0x1234, Buffer.from('here'));
    const path = `/proc/${process.pid}/fd/${ram.native.fd}`;
    const script = `fs.createReadStream(${JSON.stringify(path)}, { start: 0x1234, end: 0x1237 }).pipe(process.stdout)`;
    const seen = execFileSync(process.execPath, ['-e', script]);
    expect(seen.toString()).toBe('here');
    expect(statSync(path).size).toBe(MIB);
  });

  test('a shared file is what the guest sees, from its offset on, and takes its writes', () => {
    const path = file('shared', 4 * PAGE);
    const backing = { kind: 'file', path, shared: true, offset: PAGE } as const;
    const ram = guestRam({ size: 2 * PAGE, backing });
    expect(ram.memory.readU8(0x100)).toBe(0x11);
    ram.memory.write(PAGE, Buffer.from('written'));
    expect(
      readFileSync(path)
        .subarray(2 * PAGE, 2 * PAGE + 7)
        .toString(),
    ).toBe('written');
    expect(statSync(path).size).toBe(4 * PAGE);
  });

  test('a private file is read, and left as it is', () => {
    const path = file('private', 2 * PAGE);
    const before = readFileSync(path);
    const ram = guestRam({ size: 2 * PAGE, backing: { kind: 'file', path, shared: false } });
    expect(ram.memory.readU8(0x300)).toBe(3);
    ram.memory.fill(0, 2 * PAGE, 0xee);
    expect(ram.memory.readU8(0x300)).toBe(0xee);
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  test.each([
    ['shared', true],
    ['private', false],
  ])('a %s file that is too short is refused', (_, shared) => {
    const path = file('short', 2 * PAGE);
    const backing = { kind: 'file', path, shared } as const;
    expect(() => guestRam({ size: 3 * PAGE, backing })).toThrow(/short is shorter than the memory/);
    expect(() => guestRam({ size: 2 * PAGE, backing: { ...backing, offset: PAGE } })).toThrow(RangeError);
  });

  test('a file that is not there is an error with its path', () => {
    const path = join(folder, 'missing');
    const error = thrown(() => guestRam({ backing: { kind: 'file', path, shared: false } }));
    expect(error).toBeInstanceOf(KvmError);
    expect(error).toMatchObject({ code: 'ENOENT', syscall: 'open', request: path });
  });

  test('what is no regular file is refused, a FIFO without waiting for its writer', () => {
    const path = join(folder, 'fifo');
    execFileSync('mkfifo', [path]);
    expect(() => guestRam({ backing: { kind: 'file', path, shared: false } })).toThrow(/not a regular file/);
    expect(() => guestRam({ backing: { kind: 'file', path: folder, shared: false } })).toThrow(
      /not a regular file/,
    );
  });
});

describe('sizes', () => {
  test.each([0, 1, PAGE + 1, -PAGE, 2 ** 53])('%d bytes are refused', (size) => {
    expect(() => guestRam({ size })).toThrow(RangeError);
  });

  test('more than the host can address is ENOMEM with a way out', () => {
    const error = thrown(() => guestRam({ size: 2 ** 50 }));
    expect(error).toMatchObject({ name: 'KvmError', code: 'ENOMEM', syscall: 'mmap' });
    expect(error).toHaveProperty('hint', expect.stringContaining('less memory'));
  });
});

describe('huge pages', () => {
  test.each(['none', 'transparent'] as const)('%s always works', (hugePages) => {
    guestRam({ size: 4 * MIB, hugePages }).memory.writeU32(2 * MIB, 1);
  });

  const poolFile = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages';
  const pool = existsSync(poolFile) ? Number(readFileSync(poolFile, 'utf8')) : 0;
  test.skipIf(pool > 0).each(['anonymous', 'memfd'] as const)(
    'of a pool that is empty are ENOMEM at once, for %s memory',
    (kind) => {
      const error = thrown(() => guestRam({ size: 4 * MIB, hugePages: '2M', backing: { kind } }));
      expect(error).toMatchObject({ name: 'KvmError', code: 'ENOMEM', syscall: 'mmap' });
      expect(error).toHaveProperty('hint', expect.stringContaining('huge pages'));
    },
  );

  test('do not go with sizes that are not theirs', () => {
    expect(() => guestRam({ size: 3 * MIB, hugePages: '2M' })).toThrow(RangeError);
    expect(() => guestRam({ size: 2 * MIB, hugePages: '1G' })).toThrow(RangeError);
    expect(() => guestRam({ hugePages: '4K' as never })).toThrow(RangeError);
  });
});

describe('6 GiB with a hole below 4 GiB', () => {
  const ranges = [
    { base: 0, size: 3 * GIB },
    { base: 4 * GIB, size: 3 * GIB },
  ];

  test('is not what V8 collects garbage for', () => {
    const before = process.memoryUsage().external;
    guestRam({ ranges, hugePages: 'none' });
    expect(process.memoryUsage().external - before).toBeLessThan(16 * MIB);
  });

  test('takes no memory of the host before it is used', () => {
    const { memory } = guestRam({ ranges, hugePages: 'none' });
    expect(memory.size).toBe(6 * GIB);
    expect(memory.ranges).toEqual(ranges);
    const rss = process.memoryUsage.rss();
    for (const at of [0, 2 * GIB, 3 * GIB - 8, 4 * GIB, 6 * GIB, 7 * GIB - 8]) memory.writeU64(at, at + 1);
    for (const at of [0, 2 * GIB, 3 * GIB - 8, 4 * GIB, 6 * GIB, 7 * GIB - 8]) {
      expect(memory.readU64(at)).toBe(at + 1);
    }
    expect(process.memoryUsage.rss() - rss).toBeLessThan(64 * MIB);
  });

  test('accesses cross the border of two windows', () => {
    const { memory } = guestRam({ ranges, hugePages: 'none' });
    for (const border of [2 * GIB, 6 * GIB]) {
      memory.writeU64(border - 3, 0x1122334455667);
      expect(memory.readU64(border - 3)).toBe(0x1122334455667);
      const bytes = Uint8Array.from({ length: 64 }, (_, i) => i);
      memory.write(border - 32, bytes);
      expect(memory.read(border - 32, 64)).toEqual(bytes);
      expect(memory.view(border - 32, 64)).toBeUndefined();
      expect(memory.slices(border - 32, 64).map((slice) => slice.length)).toEqual([32, 32]);
    }
  });

  test('the hole and what is behind the end are no memory', () => {
    const { memory } = guestRam({ ranges, hugePages: 'none' });
    expect(() => memory.readU32(3 * GIB - 2)).toThrow(GuestFault);
    expect(() => memory.write(4 * GIB - 1, Uint8Array.of(1, 2))).toThrow(GuestFault);
    expect(() => memory.readU8(7 * GIB)).toThrow(GuestFault);
    expect(memory.contains(0, 6 * GIB)).toBe(false);
    expect(memory.contains(4 * GIB, 3 * GIB)).toBe(true);
  });
});

describe('after close()', () => {
  test.each(['anonymous', 'memfd'] as const)('windows of %s memory that are held read zeros', (kind) => {
    const ram = guestRam({ backing: { kind } });
    const bytes = ram.memory.view(0, MIB)!;
    bytes.fill(0x77);
    ram.close();
    ram.close();
    expect(bytes).toHaveLength(MIB);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    bytes.fill(1);
    expect(bytes[MIB - 1]).toBe(1);
    expect(thrown(() => ram.native.window(0, PAGE))).toMatchObject({ code: 'EBADF' });
    expect(thrown(() => ram.native.size)).toMatchObject({ message: 'memory is closed' });
  });

  test('a shared file keeps what was written, not what is written then', () => {
    const path = file('closed', PAGE);
    const ram = guestRam({ size: PAGE, backing: { kind: 'file', path, shared: true } });
    const bytes = ram.memory.view(0, PAGE)!;
    bytes.fill(0x55);
    ram.close();
    bytes.fill(0x66);
    expect(readFileSync(path).every((byte) => byte === 0x55)).toBe(true);
  });
});

test.each(['anonymous', 'memfd'] as const)(
  'host addresses of %s memory agree with those of the guest up to 2 MiB, as huge pages need it',
  (kind) => {
    const size = 37 * MIB;
    guestRam({ size, backing: { kind } });
    const borders = mappingsOf(size).map(({ start }) => start % BigInt(2 * MIB));
    expect(new Set(borders)).toEqual(new Set([0n]));
  },
);

describe('discard', () => {
  const ranges = (...pairs: readonly (readonly [number, number])[]): PageRanges => {
    const list = new PageRanges();
    for (const [address, length] of pairs) list.add(address, length);
    return list;
  };

  test.each(['anonymous', 'memfd'] as const)(
    'gives pages of %s memory back, which are zeros then',
    (kind) => {
      const ram = guestRam({ backing: { kind } });
      ram.memory.fill(0, MIB, 0x77);
      expect(ram.discard(ranges([PAGE, 2 * PAGE], [8 * PAGE, PAGE]))).toBe(3 * PAGE);
      const bytes = ram.memory.view(0, MIB)!;
      expect([1, 3, 8, 9].map((page) => bytes[page * PAGE])).toEqual([0, 0x77, 0, 0x77]);
      expect([1, 3, 8, 9].map((page) => bytes[page * PAGE - 1])).toEqual([0x77, 0, 0x77, 0]);
      expect(ram.leaves).toBe('zeros');
    },
  );

  test.each(['anonymous', 'memfd'] as const)('takes %s memory from this process', (kind) => {
    const size = 41 * MIB;
    const ram = guestRam({ size, backing: { kind }, hugePages: 'none' });
    ram.memory.fill(0, size, 1);
    expect(residentOf(size)).toBe(size);
    expect(ram.discard(ranges([0, 16 * MIB], [20 * MIB, 4 * MIB]))).toBe(20 * MIB);
    expect(residentOf(size)).toBe(size - 20 * MIB);
    ram.memory.fill(0, 16 * MIB, 1);
    expect(residentOf(size)).toBe(size - 4 * MIB);
  });

  test('gives pages of a private file back, which are the file again', () => {
    const path = file('discarded', PAGE);
    const ram = guestRam({ size: PAGE, backing: { kind: 'file', path, shared: false } });
    ram.memory.fill(0, PAGE, 0x77);
    expect(ram.discard(ranges([0, PAGE]))).toBe(PAGE);
    expect(ram.memory.readU8(0x500)).toBe(5);
    expect(ram.leaves).toBe('file');
  });

  test('leaves a shared file alone and says why', () => {
    const path = file('kept', PAGE);
    const ram = guestRam({ size: PAGE, backing: { kind: 'file', path, shared: true } });
    ram.memory.fill(0, PAGE, 0x77);
    expect(ram.discard(ranges([0, PAGE]))).toBe(0);
    expect(ram.memory.readU8(0x500)).toBe(0x77);
    expect(ram.refusal).toMatch(/file/);
  });

  test('of parts of pages takes the whole pages within', () => {
    const ram = guestRam();
    ram.memory.fill(0, MIB, 0x77);
    expect(ram.discard(ranges([1, 2 * PAGE], [4 * PAGE + 1, PAGE], [8 * PAGE, PAGE - 1]))).toBe(PAGE);
    expect([0, 1, 2, 4, 5, 8].map((page) => ram.memory.readU8(page * PAGE + 8))).toEqual([
      0x77, 0, 0x77, 0x77, 0x77, 0x77,
    ]);
  });

  test('finds guest addresses on both sides of a hole', () => {
    const ram = guestRam({
      ranges: [
        { base: 0, size: 4 * PAGE },
        { base: 4 * GIB, size: 4 * PAGE },
      ],
    });
    for (const base of [0, 4 * GIB]) ram.memory.fill(base, 4 * PAGE, 0x77);
    expect(ram.discard(ranges([4 * GIB + PAGE, 2 * PAGE], [0, PAGE]))).toBe(3 * PAGE);
    const holds = (base: number): number[] =>
      [0, 1, 2, 3].map((page) => ram.memory.readU8(base + page * PAGE));
    expect(holds(0)).toEqual([0, 0x77, 0x77, 0x77]);
    expect(holds(4 * GIB)).toEqual([0x77, 0, 0, 0x77]);
  });

  test('outside RAM is a GuestFault, with nothing given back', () => {
    const ram = guestRam();
    ram.memory.fill(0, MIB, 0x77);
    expect(() => ram.discard(ranges([0, PAGE], [MIB - PAGE, 2 * PAGE]))).toThrow(GuestFault);
    expect(ram.memory.readU8(0)).toBe(0x77);
  });

  test('takes whole pages of the memory alone', () => {
    const { native } = guestRam();
    const parts = [
      [1, PAGE],
      [0, 1],
      [MIB, PAGE],
      [0, MIB + PAGE],
      [NaN, PAGE],
      [-PAGE, PAGE],
      [0, Infinity],
    ] as const;
    for (const part of parts) expect(() => native.discard(Float64Array.of(...part), 1)).toThrow(RangeError);
    expect(() => native.discard(Float64Array.of(0, PAGE), 2)).toThrow(RangeError);
    expect(() => native.discard(new Uint8Array(16) as never, 1)).toThrow(TypeError);
  });
});

test('windows may overlap and be empty', () => {
  const { native } = guestRam();
  const [a, b] = [new Uint8Array(native.window(0, PAGE)), new Uint8Array(native.window(16, PAGE))];
  a[16] = 5;
  expect(b[0]).toBe(5);
  expect(native.window(MIB, 0).byteLength).toBe(0);
  expect(() => native.window(1, MIB)).toThrow(RangeError);
});
