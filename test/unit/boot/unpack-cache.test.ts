import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openSource, readAll } from '../../../src/boot/source.ts';
import { BootError } from '../../../src/boot/types.ts';
import { cachedUnpack, kernelCacheDir } from '../../../src/boot/unpack-cache.ts';
import { pattern } from '../../support/kernels.ts';
import { expectBootRejection } from './support.ts';

const packed = pattern(5000, 1);
const unpacked = pattern(3_000_000, 2);

let root: string;
let file: string;
let dir: string;
/** how often the kernel was unpacked */
let unpackings: number;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'tsvm-cache-'));
  file = join(root, 'vmlinuz');
  dir = join(root, 'cache', 'kernels');
  writeFileSync(file, packed);
  unpackings = 0;
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Opens the packed file through the cache. @param settledAfter 0: what has just been made may be taken for seen */
async function open(settledAfter = 0): Promise<{ bytes: Uint8Array; note?: string }> {
  const source = openSource(file);
  try {
    const result = await cachedUnpack(source, { dir, variant: 'vmlinux', settledAfter }, (from) => {
      unpackings++;
      expect(from.size).toBe(readFileSync(file).length);
      return Promise.resolve({ bytes: unpacked });
    });
    const bytes = readAll(result.source);
    result.source.close();
    return { bytes, ...(result.note !== undefined && { note: result.note }) };
  } finally {
    source.close();
  }
}

async function expectUnpacked(times: number, settledAfter = 0): Promise<void> {
  const { bytes } = await open(settledAfter);
  expect(Buffer.compare(bytes, unpacked)).toBe(0);
  expect(unpackings).toBe(times);
}

const entry = (): string =>
  join(dir, `${createHash('sha256').update(readFileSync(file)).digest('hex')}.vmlinux`);

const seenFiles = (): string[] => readdirSync(dir).filter((name) => name.endsWith('.seen'));

/** Changes a byte and puts the times back, as silent corruption would. */
function corrupt(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at]! ^= 0x20;
  writeFileSync(path, bytes);
  utimesSync(path, new Date(1e12), new Date(1e12));
}

describe('an unpacked kernel', () => {
  test('is kept under the checksum of the packed file', async () => {
    await expectUnpacked(1);
    expect(readdirSync(dir)).toEqual([entry().slice(dir.length + 1)]);
    expect(Buffer.compare(readFileSync(entry()).subarray(0, unpacked.length), unpacked)).toBe(0);
  });

  test('is unpacked once', async () => {
    await expectUnpacked(1);
    await expectUnpacked(1);
    await expectUnpacked(1);
  });

  test('is found for a copy of the packed file', async () => {
    await expectUnpacked(1);
    file = join(root, 'copy');
    writeFileSync(file, packed);
    await expectUnpacked(1);
  });

  test('is unpacked anew where the packed file has other content under the same name', async () => {
    await expectUnpacked(1);
    await expectUnpacked(1);
    writeFileSync(file, pattern(5000, 3));
    await expectUnpacked(2);
  });

  test('is unpacked anew where the packed file was changed in place with its times kept', async () => {
    await expectUnpacked(1);
    await expectUnpacked(1);
    expect(seenFiles()).toHaveLength(1);
    corrupt(file, 100);
    await expectUnpacked(2);
  });
});

describe('a damaged entry is remade', () => {
  const size = unpacked.length;

  test.each([
    ['the first byte', 0],
    ['the middle', size >> 1],
    ['the last byte', size - 1],
    ['the magic', size],
    ['the checksum', size + 8],
    ['the size', size + 16],
    ['the key', size + 30],
  ])('damaged: %s', async (_, at) => {
    await expectUnpacked(1);
    corrupt(entry(), at);
    await expectUnpacked(2);
    await expectUnpacked(2);
  });

  test.each([0, 1, 56, size >> 1, size, size + 55])('cut to %i bytes', async (length) => {
    await expectUnpacked(1);
    truncateSync(entry(), length);
    await expectUnpacked(2);
    await expectUnpacked(2);
  });

  test('also where both files had been seen before', async () => {
    await expectUnpacked(1);
    await expectUnpacked(1);
    expect(seenFiles()).toHaveLength(1);
    corrupt(entry(), 1234);
    await expectUnpacked(2);
  });

  test('that is the entry of another kernel', async () => {
    await expectUnpacked(1);
    const other = readFileSync(entry());
    writeFileSync(file, pattern(6000, 9));
    writeFileSync(entry(), other);
    await expectUnpacked(2);
  });
});

describe('what has been seen', () => {
  test('is not checked again', async () => {
    await expectUnpacked(1);
    await expectUnpacked(1);
    const [seen] = seenFiles();
    // Only the note knows this checksum, so an entry found under it was found by the note.
    const line = readFileSync(join(dir, seen!), 'utf8').split(' ');
    expect(line[1]).toBe(createHash('sha256').update(packed).digest('hex'));
    await expectUnpacked(1);
    expect(seenFiles()).toEqual([seen]);
  });

  test('is not noted while a file is so new that a change could go unseen', async () => {
    await expectUnpacked(1, 60_000);
    await expectUnpacked(1, 60_000);
    expect(seenFiles()).toEqual([]);
  });

  test.each(['', 'garbage', '../../../etc/passwd a b c', '\0'])(
    'in a damaged note is ignored: %j',
    async (line) => {
      await expectUnpacked(1);
      await expectUnpacked(1);
      writeFileSync(join(dir, seenFiles()[0]!), line);
      await expectUnpacked(1);
    },
  );
});

test('many at the same time get it whole and leave one entry', async () => {
  const all = await Promise.all(Array.from({ length: 8 }, () => open()));
  for (const { bytes } of all) expect(Buffer.compare(bytes, unpacked)).toBe(0);
  expect(readdirSync(dir).filter((name) => !name.endsWith('.seen'))).toEqual([entry().slice(dir.length + 1)]);
});

test('an entry stays readable for whom has it open while it is remade', async () => {
  await open();
  const source = openSource(file);
  const first = await cachedUnpack(source, { dir, variant: 'vmlinux' }, () =>
    Promise.reject(new Error('unused')),
  );
  rmSync(entry());
  await expectUnpacked(1 + 1);
  expect(Buffer.compare(readAll(first.source), unpacked)).toBe(0);
  first.source.close();
  source.close();
});

test('a directory that cannot be made is done without', async () => {
  writeFileSync(join(root, 'cache'), 'a file where the directory should be');
  await expectUnpacked(1);
  await expectUnpacked(2);
});

test('what comes with a note is not kept', async () => {
  const source = openSource(file);
  const result = await cachedUnpack(source, { dir, variant: 'vmlinux' }, () =>
    Promise.resolve({ bytes: unpacked, note: 'left packed' }),
  );
  expect(result.note).toBe('left packed');
  expect(Buffer.compare(readAll(result.source), unpacked)).toBe(0);
  expect(existsSync(dir)).toBe(false);
  source.close();
});

test('an error while unpacking comes through and leaves nothing', async () => {
  const source = openSource(file);
  const failing = cachedUnpack(source, { dir, variant: 'vmlinux' }, () =>
    Promise.reject(new BootError('EKERNEL_PACKED', 'vmlinuz is damaged')),
  );
  await expectBootRejection(failing, 'EKERNEL_PACKED', /damaged/);
  expect(existsSync(dir)).toBe(false);
  source.close();
});

test('only so many entries are kept, the newest', async () => {
  for (let i = 0; i < 18; i++) {
    writeFileSync(file, pattern(100, 100 + i));
    await open();
    utimesSync(entry(), 1000 + i, 1000 + i);
  }
  expect(readdirSync(dir).filter((name) => name.endsWith('.vmlinux'))).toHaveLength(16);
  expect(existsSync(entry())).toBe(true);
});

test('temporary files of processes that died go after an hour, others stay', async () => {
  await open();
  const [old, fresh] = [join(dir, 'old.tmp'), join(dir, 'fresh.tmp')];
  writeFileSync(old, '');
  writeFileSync(fresh, '');
  utimesSync(old, new Date(Date.now() - 2 * 3_600_000), new Date(Date.now() - 2 * 3_600_000));
  rmSync(entry());
  await open();
  expect([existsSync(old), existsSync(fresh)]).toEqual([false, true]);
});

test('the directory and its files are for their owner only', async () => {
  await open();
  expect(statSync(dir).mode & 0o077).toBe(0);
  expect(statSync(entry()).mode & 0o077).toBe(0);
});

describe('the default directory', () => {
  test('is in TSVM_CACHE', () => {
    expect(kernelCacheDir({ TSVM_CACHE: '/c', XDG_CACHE_HOME: '/x' })).toBe('/c/kernels');
  });

  test('else in the XDG cache directory', () => {
    expect(kernelCacheDir({ TSVM_CACHE: '', XDG_CACHE_HOME: '/x' })).toBe('/x/tsvm/kernels');
  });

  test.each([undefined, '', 'relative'])('else in .cache, also where XDG_CACHE_HOME is %j', (xdg) => {
    const dirs = kernelCacheDir(xdg === undefined ? {} : { XDG_CACHE_HOME: xdg });
    expect(dirs).toMatch(/\/\.cache\/tsvm\/kernels$/);
  });
});
