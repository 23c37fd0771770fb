/** What the device does with each request (VIRTIO 1.2, 5.2.6), good ones and bad ones, on both engines. */
import { readFileSync, statSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import type { IoEngine } from '../../../../src/kvm/io-ring.ts';
import {
  blockFixture,
  content,
  F,
  header,
  ranged,
  ranges,
  read,
  S,
  simple,
  T,
  write,
  type BlockFixture,
  type BlockFixtureOptions,
} from '../../../support/virtio/block.ts';
import type { Buffer as Piece } from '../../../support/virtio/driver-queue.ts';
import { Rig, type Negotiation } from '../../../support/virtio/rig.ts';

const SIZE = 1 << 18;
const SECTORS = SIZE / 512;

const fixtures: BlockFixture[] = [];
afterEach(async () => {
  for (const fixture of fixtures.splice(0)) await fixture.close();
});

type Answer = { readonly status: number; readonly data: Uint8Array; readonly written: number };
type Bench = BlockFixture & {
  readonly rig: Rig;
  ask: (pieces: readonly Piece[]) => Promise<Answer>;
  file: () => Buffer;
};

function start(options: BlockFixtureOptions = {}, negotiation: Negotiation = {}): Bench {
  const fixture = blockFixture(options);
  fixtures.push(fixture);
  const rig = new Rig(fixture.device, { transport: 'pci', memory: 'one window' });
  rig.start({ queueSize: 64, ...negotiation });
  return {
    ...fixture,
    rig,
    ask: async (pieces) => {
      const { reply, written } = await rig.ask(rig.queue(0), pieces);
      rig.buffers.clear();
      return { status: reply.at(-1) ?? -1, data: reply.subarray(0, -1), written };
    },
    file: () => readFileSync(fixture.path),
  };
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** The untouched disk with some bytes replaced. */
const changed = (sector: number, bytes: Uint8Array): Uint8Array => {
  const expected = content(0, SIZE);
  expected.set(bytes, 512 * sector);
  return expected;
};

describe.each(['io_uring', 'threads'] as const)('on %s', (engine: IoEngine) => {
  test('a read gives the data and OK, in the whole length', async () => {
    const { ask } = start({ engine });
    const { status, data, written } = await ask(read(7, 4096));
    expect(status).toBe(S.ok);
    expect(same(data, content(7, 4096))).toBe(true);
    expect(written).toBe(4097);
  });

  test('a read of the last sector is served', async () => {
    const { ask } = start({ engine });
    const { status, data } = await ask(read(SECTORS - 1, 512));
    expect(status).toBe(S.ok);
    expect(same(data, content(SECTORS - 1, 512))).toBe(true);
  });

  test('a write changes the disk there and nowhere else', async () => {
    const { ask, file } = start({ engine });
    const bytes = content(999, 2048);
    expect(await ask(write(5, bytes))).toMatchObject({ status: S.ok, written: 1 });
    expect(same(file(), changed(5, bytes))).toBe(true);
  });

  test('data in many pieces of odd lengths keeps its order', async () => {
    const { ask, file } = start({ engine });
    const bytes = content(500, 1536);
    const cuts = [0, 1, 3, 500, 513, 1400, 1536];
    const pieces = cuts.slice(1).map((end, i) => bytes.subarray(cuts[i], end));
    expect((await ask(write(3, ...pieces))).status).toBe(S.ok);
    expect(same(file(), changed(3, bytes))).toBe(true);
    const rooms = cuts.slice(1).map((end, i) => ({ room: end - cuts[i]! }));
    const { data } = await ask([{ bytes: header(T.in, 3) }, ...rooms, { room: 1 }]);
    expect(same(data, bytes)).toBe(true);
  });

  test('the header may lie in one descriptor with the data, the status with the answer', async () => {
    const { ask, file } = start({ engine });
    const bytes = content(77, 512);
    const joined = new Uint8Array(528);
    joined.set(header(T.out, 2));
    joined.set(bytes, 16);
    expect((await ask([{ bytes: joined }, { room: 1 }])).status).toBe(S.ok);
    expect(same(file(), changed(2, bytes))).toBe(true);
    const { data, status } = await ask([{ bytes: header(T.in, 2) }, { room: 513 }]);
    expect(status).toBe(S.ok);
    expect(same(data, bytes)).toBe(true);
  });

  test('the header may be split over descriptors in any way', async () => {
    const { ask } = start({ engine });
    for (let cut = 1; cut < 16; cut++) {
      const bytes = header(T.in, 0x1ff);
      const pieces = [
        { bytes: bytes.slice(0, cut) },
        { bytes: bytes.slice(cut) },
        { room: 512 },
        { room: 1 },
      ];
      const { status, data } = await ask(pieces);
      expect([cut, status]).toEqual([cut, S.ok]);
      expect(same(data, content(0x1ff, 512))).toBe(true);
    }
  });

  test('the status goes into the last writable byte, however large its descriptor is', async () => {
    const { ask } = start({ engine });
    const { data, status, written } = await ask([{ bytes: header(T.in, 1) }, { room: 100 }, { room: 925 }]);
    expect(status).toBe(S.ok);
    expect(written).toBe(1025);
    expect(same(data, content(1, 1024))).toBe(true);
  });

  test('a flush is answered with OK', async () => {
    const { ask } = start({ engine });
    expect(await ask(simple(T.flush))).toMatchObject({ status: S.ok, written: 1 });
  });

  test('a discard of several segments makes holes', async () => {
    const { ask, file, path } = start({ engine });
    const before = statSync(path).blocks;
    const answer = await ask(ranged(T.discard, { sector: 8, sectors: 16 }, { sector: 64, sectors: 8 }));
    expect(answer.status).toBe(S.ok);
    expect(statSync(path).blocks).toBe(before - 24);
    const expected = content(0, SIZE)
      .fill(0, 8 * 512, 24 * 512)
      .fill(0, 64 * 512, 72 * 512);
    expect(same(file(), expected)).toBe(true);
  });

  test('zeros of several segments are zeros, holes where that is allowed', async () => {
    const { ask, file, path } = start({ engine });
    const before = statSync(path).blocks;
    const answer = await ask(
      ranged(
        T.writeZeroes,
        { sector: 8, sectors: 8, flags: 1 },
        { sector: 33, sectors: 2 },
        { sector: 9, sectors: 0 },
      ),
    );
    expect(answer.status).toBe(S.ok);
    expect(statSync(path).blocks).toBe(before - 8);
    const expected = content(0, SIZE)
      .fill(0, 8 * 512, 16 * 512)
      .fill(0, 33 * 512, 35 * 512);
    expect(same(file(), expected)).toBe(true);
  });

  test('requests of one batch are all answered, with one interrupt', async () => {
    const { rig } = start({ engine });
    const queue = rig.queue(0);
    rig.driver.interrupts();
    for (let i = 0; i < 20; i++) queue.chain(queue.place(read(i, 512)));
    queue.publish();
    rig.driver.notify(0);
    await rig.machine.until(() => ((queue.deviceIndex - queue.usedIndex) & 0xffff) === 20);
    const used = queue.collect();
    expect(used.every(({ buffers }) => queue.reply(buffers).at(-1) === S.ok)).toBe(true);
    expect(rig.machine.messages.sent.length).toBeLessThanOrEqual(20);
  });

  test('in writethrough mode a write is synced before it completes', async () => {
    const { ask, file, rig } = start({ engine });
    rig.driver.writeConfig(32, 1, 0);
    rig.machine.settle();
    const bytes = content(4, 512);
    expect((await ask(write(9, bytes))).status).toBe(S.ok);
    expect(same(file(), changed(9, bytes))).toBe(true);
    expect((await ask(read(9, 512))).status).toBe(S.ok);
    expect((await ask(ranged(T.writeZeroes, { sector: 0, sectors: 1 }))).status).toBe(S.ok);
  });
});

test('the serial number is given in 20 bytes, filled up with NUL', async () => {
  const { ask } = start({ serial: 'disk-0815' });
  const { status, data } = await ask([{ bytes: header(T.getId) }, { room: 20 }, { room: 1 }]);
  expect(status).toBe(S.ok);
  expect(Buffer.from(data).toString('latin1')).toBe('disk-0815'.padEnd(20, '\0'));
});

test('a serial number of 20 characters has no NUL', async () => {
  const { ask } = start({ serial: 'abcdefghijklmnopqrst' });
  const { data } = await ask([{ bytes: header(T.getId) }, { room: 20 }, { room: 1 }]);
  expect(Buffer.from(data).toString('latin1')).toBe('abcdefghijklmnopqrst');
});

test.each(['abcdefghijklmnopqrstu', 'naïve', 'a\nb'])('%j is no serial number', (serial) => {
  expect(() => start({ serial })).toThrow(RangeError);
});

test('a read-only disk is read, and everything else is an I/O error or not offered', async () => {
  const { ask, file, device } = start({ readOnly: true });
  expect(device.features.has(F.readOnly)).toBe(true);
  expect(device.features.has(F.discard)).toBe(false);
  expect((await ask(read(0, 512))).status).toBe(S.ok);
  expect((await ask(simple(T.flush))).status).toBe(S.ok);
  expect((await ask(write(0, content(1, 512)))).status).toBe(S.ioError);
  expect((await ask(ranged(T.discard, { sector: 0, sectors: 1 }))).status).toBe(S.unsupported);
  expect(same(file(), content(0, SIZE))).toBe(true);
});

test('with 4096-byte blocks, requests have to be whole blocks', async () => {
  const { ask } = start({ blockSize: 4096 });
  expect((await ask(read(8, 4096))).status).toBe(S.ok);
  expect((await ask(read(8, 512))).status).toBe(S.ioError);
  expect((await ask(read(4, 4096))).status).toBe(S.ioError);
  expect((await ask(write(1, content(0, 4096)))).status).toBe(S.ioError);
  expect((await ask(ranged(T.discard, { sector: 8, sectors: 4 }))).status).toBe(S.ioError);
});

describe('a bad request', () => {
  const many = (count: number): { sector: number; sectors: number }[] =>
    Array.from({ length: count }, (_, i) => ({ sector: i, sectors: 1 }));

  test.each<readonly [string, Piece[]]>([
    ['a read beyond the end', read(SECTORS, 512)],
    ['a read that ends beyond the end', read(SECTORS - 1, 1024)],
    ['a read at sector 2^64 - 1', read(2n ** 64n - 1n, 512)],
    ['a read at a sector that wraps when it is counted in bytes', read(2n ** 55n, 512)],
    ['a read at a sector above 2^53', read(2n ** 53n + 1n, 512)],
    ['a write beyond the end', write(SECTORS, content(0, 512))],
    ['a write that ends beyond the end', write(SECTORS - 2, content(0, 1536))],
    ['a write at sector 2^64 - 1', write(2n ** 64n - 1n, content(0, 512))],
    ['a read of no whole sector', read(0, 511)],
    ['a read of a sector and a byte', read(0, 513)],
    ['a write of no whole sector', write(0, content(0, 100))],
    ['an empty read beyond the end', read(SECTORS + 1, 0)],
    ['a header that is too short', [{ bytes: header(T.in).slice(0, 15) }, { room: 512 }, { room: 1 }]],
    ['no header at all', [{ room: 512 }, { room: 1 }]],
    ['an identifier in less than 20 bytes', [{ bytes: header(T.getId) }, { room: 19 }, { room: 1 }]],
    ['a discard without segments', [{ bytes: header(T.discard) }, { room: 1 }]],
    [
      'a discard with half a segment',
      [{ bytes: header(T.discard) }, { bytes: ranges(many(2)).slice(0, 24) }, { room: 1 }],
    ],
    ['a discard of too many segments', ranged(T.discard, ...many(33))],
    [
      'a discard beyond the end',
      ranged(T.discard, { sector: 0, sectors: 1 }, { sector: SECTORS, sectors: 1 }),
    ],
    ['a discard of 2^32 - 1 sectors', ranged(T.discard, { sector: 0, sectors: 0xffff_ffff })],
    ['a discard at sector 2^64 - 1', ranged(T.discard, { sector: 2n ** 64n - 1n, sectors: 1 })],
    ['zeros beyond the end', ranged(T.writeZeroes, { sector: SECTORS - 1, sectors: 2 })],
    ['zeros at a sector above 2^53', ranged(T.writeZeroes, { sector: 2n ** 53n + 2n, sectors: 1, flags: 1 })],
  ])('%s is an I/O error and changes nothing', async (_, pieces) => {
    const { ask, file, lines } = start();
    const { status } = await ask(pieces);
    expect(status).toBe(S.ioError);
    expect(same(file(), content(0, SIZE))).toBe(true);
    // the guest's own fault is no line of the host's log
    expect(lines).toEqual([]);
    expect((await ask(read(1, 512))).status).toBe(S.ok);
  });

  test.each<readonly [string, Piece[]]>([
    ['an unknown type', simple(1000)],
    ['the legacy type of SCSI commands', simple(2)],
    ['the lifetime, which is not offered', [{ bytes: header(T.getLifetime) }, { room: 40 }, { room: 1 }]],
    ['a discard with the unmap flag', ranged(T.discard, { sector: 0, sectors: 1, flags: 1 })],
    ['a discard with an unknown flag', ranged(T.discard, { sector: 0, sectors: 1, flags: 0x8000_0000 })],
    [
      'zeros with an unknown flag in the second segment',
      ranged(T.writeZeroes, { sector: 0, sectors: 1 }, { sector: 4, sectors: 1, flags: 3 }),
    ],
  ])('%s is not supported and changes nothing', async (_, pieces) => {
    const { ask, file } = start();
    expect((await ask(pieces)).status).toBe(S.unsupported);
    expect(same(file(), content(0, SIZE))).toBe(true);
  });

  test.each<readonly [string, Piece[]]>([
    ['nothing writable', [{ bytes: header(T.in, 0) }]],
    ['data and nothing writable', [{ bytes: header(T.out, 0) }, { bytes: content(9, 512) }]],
  ])('%s leaves no place for a status: used with length 0', async (_, pieces) => {
    const { rig, file, ask } = start();
    const { written } = await rig.ask(rig.queue(0), pieces);
    expect(written).toBe(0);
    expect(same(file(), content(0, SIZE))).toBe(true);
    expect((await ask(read(1, 512))).status).toBe(S.ok);
  });

  test('a header where the device should write is none', async () => {
    const { rig } = start();
    const queue = rig.queue(0);
    const placed = queue.place([{ bytes: header(T.in, 0) }, { room: 512 }, { room: 1 }]);
    queue.chain(placed.map((piece) => ({ ...piece, writable: true })));
    queue.publish();
    rig.driver.notify(0);
    await rig.machine.until(() => queue.hasUsed);
    const [used] = queue.collect();
    expect(queue.reply(used!.buffers).at(-1)).toBe(S.ioError);
  });

  test('status and data may overlap; the status is written last', async () => {
    const { rig } = start();
    const queue = rig.queue(0);
    const [head, room] = queue.place([{ bytes: header(T.in, 2) }, { room: 512 }]);
    queue.chain([head!, room!, { address: room!.address + 5, length: 1, writable: true }]);
    queue.publish();
    rig.driver.notify(0);
    await rig.machine.until(() => queue.hasUsed);
    const expected = content(2, 512);
    expected[5] = S.ok;
    expect(same(rig.machine.memory.read(room!.address, 512), expected)).toBe(true);
  });

  test('an empty read and an empty write are done at once', async () => {
    const { ask } = start();
    expect((await ask(read(SECTORS, 0))).status).toBe(S.ok);
    expect((await ask(write(0))).status).toBe(S.ok);
  });
});

test('discard and zeros are not supported where they were not negotiated', async () => {
  const { rig, ask, file } = start();
  rig.driver.status = 0;
  rig.driver.status = 1;
  rig.driver.status = 3;
  rig.driver.acceptFeatures(0, 1 << F.flush);
  rig.driver.acceptFeatures(1, 1);
  rig.driver.status = 0x0b;
  rig.queues = [rig.setUpQueue(0)];
  rig.driver.status = 0x0f;
  rig.machine.settle();
  expect((await ask(ranged(T.discard, { sector: 0, sectors: 8 }))).status).toBe(S.unsupported);
  expect((await ask(ranged(T.writeZeroes, { sector: 0, sectors: 8 }))).status).toBe(S.unsupported);
  expect(same(file(), content(0, SIZE))).toBe(true);
});

test('what bits of requests lie in other windows of guest memory makes no difference', async () => {
  const fixture = blockFixture();
  fixtures.push(fixture);
  const rig = new Rig(fixture.device, { transport: 'mmio', memory: 'a window a page' });
  rig.start({ queueSize: 64 });
  const bytes = content(50, 16384);
  const { reply } = await rig.ask(rig.queue(0), write(17, bytes));
  expect([...reply]).toEqual([S.ok]);
  expect(same(readFileSync(fixture.path), changed(17, bytes))).toBe(true);
});
