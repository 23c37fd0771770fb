import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  ftruncateSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { MemoryImage, PageMap } from '../../src/kvm/memory-image.ts';
import { GuestRam, type MemoryBacking } from '../../src/kvm/memory.ts';

const PAGE = 4096;
const SIZE = 8 * 2 ** 20;
const BLOCK = 64 * 1024;

const scratch = mkdtempSync(join(tmpdir(), 'tsvm-image-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

let files = 0;

function newFile(): string {
  const path = join(scratch, `memory-${files++}`);
  const fd = openSync(path, 'wx', 0o600);
  ftruncateSync(fd, SIZE);
  closeSync(fd);
  return path;
}

function ramOf(backing: MemoryBacking = { kind: 'anonymous' }): GuestRam {
  return new GuestRam({ ranges: [{ base: 0, size: SIZE }], backing, hugePages: 'none' });
}

const put = (ram: GuestRam, page: number, value: number): void =>
  ram.memory.write(page * PAGE, new Uint8Array(PAGE).fill(value));

async function write(ram: GuestRam, child: boolean, changedOnly = false, meanwhile = (): void => undefined) {
  const path = newFile();
  using pageMap = new PageMap();
  const image = new MemoryImage(ram, { pageMap, changedOnly, block: BLOCK });
  const fd = openSync(path, 'r+');
  try {
    const writing = image.write(fd, child);
    meanwhile();
    return { path, bytes: await writing, extents: [...image.extents()] };
  } finally {
    closeSync(fd);
  }
}

for (const child of [false, true]) {
  test(`what is not zero is written to its place, ${child ? 'by a child' : 'by a thread'}`, async () => {
    const ram = ramOf();
    put(ram, 0, 1);
    put(ram, 7, 0);
    put(ram, 1000, 2);
    put(ram, 2047, 3);
    const { path, bytes } = await write(ram, child);
    const expected = Buffer.alloc(SIZE);
    expected.fill(1, 0, PAGE);
    expected.fill(2, 1000 * PAGE, 1001 * PAGE);
    expected.fill(3, 2047 * PAGE);
    expect(readFileSync(path).equals(expected)).toBe(true);
    expect(bytes).toBe(3 * PAGE);
    expect(statSync(path).blocks * 512).toBeLessThan(SIZE / 8);
    ram.close();
  });
}

test('a child writes the memory of the moment at which it was made', async () => {
  const ram = ramOf();
  for (let page = 0; page < SIZE / PAGE; page++) put(ram, page, 1);
  const { path } = await write(ram, true, false, () => {
    for (let page = 0; page < SIZE / PAGE; page++) put(ram, page, 2);
  });
  expect(readFileSync(path).equals(Buffer.alloc(SIZE, 1))).toBe(true);
  ram.close();
});

test('over a file, only blocks that were written to are in an image of changes', async () => {
  const below = newFile();
  writeFileSync(below, Buffer.alloc(SIZE, 7));
  const ram = ramOf({ kind: 'file', path: below, shared: false });
  // Reading is no change.
  expect(ram.memory.read(100 * PAGE, PAGE)).toEqual(new Uint8Array(PAGE).fill(7));
  put(ram, 33, 9);
  put(ram, 1025, 0);
  const { path, extents } = await write(ram, false, true);
  expect(extents).toEqual([32 * PAGE, BLOCK, 1024 * PAGE, BLOCK]);
  const again = ramOf({ kind: 'file', path: below, shared: false });
  again.mapOver(path, Float64Array.from(extents));
  expect(again.memory.read(33 * PAGE, PAGE)).toEqual(new Uint8Array(PAGE).fill(9));
  expect(again.memory.read(34 * PAGE, PAGE)).toEqual(new Uint8Array(PAGE).fill(7));
  expect(again.memory.read(1025 * PAGE, PAGE)).toEqual(new Uint8Array(PAGE));
  expect(again.memory.read(1026 * PAGE, PAGE)).toEqual(new Uint8Array(PAGE).fill(7));
  expect(again.memory.read(5 * PAGE, PAGE)).toEqual(new Uint8Array(PAGE).fill(7));
  ram.close();
  again.close();
});

test('all of memory over a file is in a whole image', async () => {
  const below = newFile();
  writeFileSync(below, Buffer.alloc(SIZE, 7));
  const ram = ramOf({ kind: 'file', path: below, shared: false });
  put(ram, 2, 0);
  const { path } = await write(ram, true);
  const expected = Buffer.alloc(SIZE, 7);
  expected.fill(0, 2 * PAGE, 3 * PAGE);
  expect(readFileSync(path).equals(expected)).toBe(true);
  ram.close();
});

test('a file that cannot take it is an error', async () => {
  const ram = ramOf();
  put(ram, 0, 1);
  using pageMap = new PageMap();
  const image = new MemoryImage(ram, { pageMap, block: BLOCK });
  for (const child of [false, true]) {
    const fd = openSync('/dev/full', 'r+');
    await expect(image.write(fd, child)).rejects.toMatchObject({ code: 'ENOSPC', syscall: 'pwrite' });
    closeSync(fd);
  }
  ram.close();
});

test('ranges that are not of the memory are refused, and nothing is mapped', () => {
  const below = newFile();
  writeFileSync(below, Buffer.alloc(SIZE, 7));
  const ram = ramOf();
  for (const [offset, length] of [
    [0, SIZE + PAGE],
    [1, PAGE],
    [0, 100],
    [-PAGE, PAGE],
    [SIZE, PAGE],
    [Number.NaN, PAGE],
  ])
    expect(() => ram.mapOver(below, Float64Array.of(0, PAGE, offset!, length!))).toThrow(RangeError);
  expect(ram.memory.read(0, 1)).toEqual(new Uint8Array(1));
  writeFileSync(below, Buffer.alloc(SIZE - PAGE));
  expect(() => ram.mapOver(below, Float64Array.of(0, PAGE))).toThrow(/shorter/);
  ram.close();
});

test('what was prefetched is as it was in the file, and only what has changed there since is a change', async () => {
  const path = newFile();
  const fd = openSync(path, 'r+');
  const content = Buffer.alloc(SIZE, 5);
  writeFileSync(fd, content);
  closeSync(fd);
  const over = newFile();
  writeFileSync(over, Buffer.alloc(SIZE, 6));
  const extents = Float64Array.of(16 * PAGE, 16 * PAGE, 512 * PAGE, 16 * PAGE);
  content.fill(6, 16 * PAGE, 32 * PAGE);
  content.fill(6, 512 * PAGE, 528 * PAGE);
  const ram = ramOf({ kind: 'file', path, shared: false });
  ram.mapOver(over, extents);
  const layers = [{ path }, { path: over, extents }];
  await ram.prefetch(layers, Float64Array.of(0, 2 ** 21, SIZE - 2 ** 21, 2 ** 21));
  expect(content.equals(ram.memory.read(0, SIZE))).toBe(true);
  // One in what was copied, one beyond it; one with what is there already.
  put(ram, 17, 7);
  put(ram, 600, 8);
  put(ram, 20, 6);
  const { extents: changed, bytes } = await write(ram, true, true);
  const block = (page: number): number => Math.floor((page * PAGE) / BLOCK) * BLOCK;
  expect(changed).toEqual([block(17), BLOCK, block(600), BLOCK]);
  expect(bytes).toBe(2 * BLOCK);
  await expect(ram.prefetch(layers, Float64Array.of(0, 2 ** 21))).rejects.toMatchObject({ code: 'EINVAL' });
  ram.close();
});

test('blocks that were touched are told', () => {
  const path = newFile();
  writeFileSync(path, Buffer.alloc(SIZE, 5));
  const ram = ramOf({ kind: 'file', path, shared: false });
  const block = 2 ** 21;
  for (const page of [512, 600, 700, 1600]) for (let i = 0; i < 8; i++) put(ram, page + i, 1);
  using pageMap = new PageMap();
  expect([...ram.native.touched(pageMap.fd, block, 17)]).toEqual([block, block]);
  expect([...ram.native.touched(pageMap.fd, block, 8)]).toEqual([block, block, 3 * block, block]);
  for (const wrong of [0, 100, -4096])
    expect(() => ram.native.touched(pageMap.fd, wrong, 1)).toThrow(/block/);
  ram.close();
});
