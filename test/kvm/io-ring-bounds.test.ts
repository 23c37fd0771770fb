/** What the addon does with requests that no honest caller writes: it trusts no field of the shared area. */
import { constants as os } from 'node:os';
import { afterEach, describe, expect, test } from 'vitest';
import { native, type NativeIoRing } from '../../src/kvm/native.ts';
import { ENGINES, ioRings, pattern, randomBelow } from '../support/io-rings.ts';

const { EFAULT, EINVAL } = os.errno;
const ENTRIES = 8;
const PIECES = 16;
const CANARY = 0xee;
const make = ioRings();

type Request = {
  offset: number;
  length: number;
  slot: number;
  operation: number;
  fd: number;
  pieces: number;
};
type Piece = { offset: number; buffer: number; length: number };

const open: NativeIoRing[] = [];
afterEach(() => {
  for (const ring of open.splice(0)) ring.close();
});

describe.each(ENGINES)('%s', (engine) => {
  function setUp() {
    const ring = new (native().IoRing)(engine, ENTRIES, PIECES);
    open.push(ring);
    const area = new DataView(ring.area());
    // 4096 bytes with others on both sides
    const whole = new Uint8Array(3 * 4096).fill(CANARY);
    const buffer = ring.register(whole.buffer, 4096, 4096);
    const { fd } = make.file(pattern(65536));
    return {
      ring,
      area,
      whole,
      buffer,
      fd,
      good: (): Request => ({ offset: 0, length: 0, slot: 0, operation: 0, fd, pieces: 1 }),
      piece: (): Piece => ({ offset: 0, buffer, length: 512 }),
      request: (index: number, { offset, length, slot, operation, fd, pieces }: Request) => {
        area.setFloat64(index * 32, offset, true);
        area.setFloat64(index * 32 + 8, length, true);
        [slot, operation, fd, pieces].forEach((value, i) =>
          area.setInt32(index * 32 + 16 + 4 * i, value, true),
        );
      },
      pieceAt: (index: number, { offset, buffer, length }: Piece) => {
        const at = ENTRIES * 32 + index * 16;
        area.setFloat64(at, offset, true);
        area.setInt32(at + 8, buffer, true);
        area.setUint32(at + 12, length, true);
      },
      /** slots with their results, when all of `count` requests are over */
      finish: (count: number, done: number): Map<number, number> => {
        const results = new Map<number, number>();
        for (let left = count; ; done = ring.wait()) {
          for (let i = 0; i < done; i++) {
            const at = ENTRIES * 32 + PIECES * 16 + i * 16;
            results.set(area.getUint32(at + 8, true), area.getFloat64(at, true));
          }
          left -= done;
          if (left <= 0) return results;
        }
      },
      outside: () =>
        Buffer.concat([whole.subarray(0, 4096), whole.subarray(8192)]).every((b) => b === CANARY),
    };
  }

  test('the area has the size that its layout says', () => {
    expect(setUp().area.byteLength).toBe(ENTRIES * 32 + PIECES * 16 + ENTRIES * 16);
  });

  const bad: readonly [string, Partial<Request>, Partial<Piece>, number][] = [
    ['nothing wrong', {}, {}, 512],
    ['operation 7', { operation: 7 }, {}, -EINVAL],
    ['operation -1', { operation: -1 }, {}, -EINVAL],
    ['operation 2^31 - 1', { operation: 2 ** 31 - 1 }, {}, -EINVAL],
    ['offset -1', { offset: -1 }, {}, -EINVAL],
    ['offset NaN', { offset: NaN }, {}, -EINVAL],
    ['offset -Infinity', { offset: -Infinity }, {}, -EINVAL],
    ['offset 1.5', { offset: 1.5 }, {}, -EINVAL],
    ['offset 2^53', { offset: 2 ** 53 }, {}, -EINVAL],
    ['offset 2^64', { offset: 2 ** 64 }, {}, -EINVAL],
    ['offset 2^53 - 1', { offset: 2 ** 53 - 1 }, {}, 0],
    ['length -1', { length: -1 }, {}, -EINVAL],
    ['length NaN', { length: NaN }, {}, -EINVAL],
    ['a length that differs from the pieces', { length: 4096 }, {}, 512],
    ['17 pieces of 16', { pieces: 17 }, {}, -EINVAL],
    ['-1 pieces', { pieces: -1 }, {}, -EINVAL],
    ['2^31 pieces', { pieces: -(2 ** 31) }, {}, -EINVAL],
    ['no piece', { pieces: 0 }, {}, 0],
    ['a descriptor of -1', { fd: -1 }, {}, -os.errno.EBADF],
    ['a descriptor of 2^31 - 1', { fd: 2 ** 31 - 1 }, {}, -os.errno.EBADF],
    ['buffer -1', {}, { buffer: -1 }, -EFAULT],
    ['buffer 1', {}, { buffer: 1 }, -EFAULT],
    ['buffer 4096, another generation', {}, { buffer: 4096 }, -EFAULT],
    ['buffer 2^31 - 1', {}, { buffer: 2 ** 31 - 1 }, -EFAULT],
    ['a piece to the very end', {}, { offset: 3584 }, 512],
    ['a piece beyond the end', {}, { offset: 3585 }, -EFAULT],
    ['a piece from behind the end', {}, { offset: 4097, length: 0 }, -EFAULT],
    ['a piece at -1', {}, { offset: -1 }, -EFAULT],
    ['a piece at NaN', {}, { offset: NaN }, -EFAULT],
    ['a piece at 0.5', {}, { offset: 0.5 }, -EFAULT],
    ['a piece at 2^52', {}, { offset: 2 ** 52 }, -EFAULT],
    ['a piece at 2^64', {}, { offset: 2 ** 64 }, -EFAULT],
    ['a piece of 4 GiB', {}, { length: 2 ** 32 - 1 }, -EFAULT],
    ['a piece of nothing', {}, { length: 0 }, 0],
  ];

  test.each(bad)('%s', (_, request, piece, result) => {
    const ring = setUp();
    ring.request(0, { ...ring.good(), ...request });
    ring.pieceAt(0, { ...ring.piece(), ...piece });
    // the next one finds its own piece, and is not harmed
    ring.request(1, { ...ring.good(), slot: 1 });
    ring.pieceAt(1, ring.piece());
    const results = ring.finish(2, ring.ring.submit(2));
    expect(results.get(0)).toBe(result);
    const lost = request.pieces !== undefined && request.pieces !== 1;
    if (!lost) expect(results.get(1)).toBe(512);
    expect(results.size).toBe(2);
    expect(ring.outside()).toBe(true);
  });

  test.each([-1, ENTRIES + 1, 2 ** 32, NaN, 0.5, '1', undefined])('a count of %s is refused', (count) => {
    const { ring } = setUp();
    expect(() => ring.submit(count as number)).toThrow(/count must be/);
  });

  test.each([
    ['that is not there', [0, ENTRIES]],
    ['below 0', [0, -1]],
    ['twice', [3, 3]],
  ])('a slot %s is refused, and the batch with it', (_, slots) => {
    const ring = setUp();
    slots.forEach((slot, i) => ring.request(i, { ...ring.good(), slot }));
    ring.pieceAt(0, ring.piece());
    ring.pieceAt(1, ring.piece());
    expect(() => ring.ring.submit(2)).toThrow("a request's slot is not free");
    expect(ring.whole.every((byte) => byte === CANARY)).toBe(true);
    // its good slots are free again
    for (let i = 0; i < ENTRIES; i++) ring.request(i, { ...ring.good(), slot: i, pieces: 0 });
    expect(ring.finish(ENTRIES, ring.ring.submit(ENTRIES)).size).toBe(ENTRIES);
  });

  test.each([
    ['no ArrayBuffer', new Uint8Array(8), 0, 8],
    ['shared memory', new SharedArrayBuffer(8), 0, 8],
    ['an offset behind it', new ArrayBuffer(8), 9, 0],
    ['a length behind it', new ArrayBuffer(8), 4, 5],
    ['a negative offset', new ArrayBuffer(8), -1, 1],
    ['a huge length', new ArrayBuffer(8), 4, 2 ** 53 - 1],
  ])('registering %s is refused', (_, buffer, offset, length) => {
    const { ring } = setUp();
    expect(() => ring.register(buffer as ArrayBuffer, offset, length)).toThrow(/buffer|must be|ArrayBuffer/);
  });

  test.each([
    ['an engine of another name', ['aio', 8, 8]],
    ['no entries', [engine, 0, 8]],
    ['too many entries', [engine, 4097, 8]],
    ['too many pieces', [engine, 8, 65537]],
  ])('%s makes no ring', (_, args) => {
    expect(() => new (native().IoRing)(...(args as ['threads', number, number]))).toThrow(RangeError);
  });

  test('its methods take no other object for a ring', () => {
    const { ring } = setUp();
    expect(() => ring.submit.call({} as NativeIoRing, 0)).toThrow();
  });

  test('4000 requests at random end with a result each, and touch nothing beside their memory', () => {
    const ring = setUp();
    const next = randomBelow(4);
    const pick = <T>(values: readonly T[]): T => values[next(values.length)]!;
    const odd = [-1, NaN, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, -0, 4095, 4096, 4097];
    // a valid field nine times in ten, so that the depths are reached too
    const mostly = <T>(good: T, others: readonly T[]): T => (next(10) > 0 ? good : pick(others));
    let transferred = 0;
    for (let round = 0; round < 500; round++) {
      for (let i = 0; i < ENTRIES; i++) {
        ring.request(i, {
          offset: mostly(next(65536), odd),
          length: mostly(1 + next(4096), odd),
          slot: i,
          operation: mostly(next(6), [-1, 6, 255, 2 ** 31 - 1]),
          fd: mostly(ring.fd, [-1, 99_999, 2 ** 31 - 1]),
          pieces: mostly(next(4), [4, 15, 16, 17, -1, 2 ** 31 - 1]),
        });
      }
      for (let i = 0; i < PIECES; i++) {
        ring.pieceAt(i, {
          offset: mostly(next(2048), odd),
          buffer: mostly(ring.buffer, [-1, 1, 2, 4096, 2 ** 31 - 1]),
          length: mostly(next(2048), [4096, 4097, 2 ** 31, 2 ** 32 - 1]),
        });
      }
      const results = ring.finish(ENTRIES, ring.ring.submit(ENTRIES));
      expect(results.size).toBe(ENTRIES);
      for (const result of results.values()) {
        expect(result).toBeGreaterThanOrEqual(-4095);
        expect(result).toBeLessThanOrEqual(16 * 4096);
        if (result > 0) transferred++;
      }
      expect(ring.outside()).toBe(true);
    }
    expect(transferred).toBeGreaterThan(300);
  });
});
