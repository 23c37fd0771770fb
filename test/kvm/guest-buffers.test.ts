import { describe, expect, test } from 'vitest';
import { GuestFault, GuestMemory } from '../../src/kvm/guest-memory.ts';
import { GuestBuffers } from '../../src/kvm/guest-buffers.ts';
import { IO } from '../../src/kvm/io-ring.ts';
import { IoVector } from '../../src/kvm/io-vector.ts';
import { ioRings, Listener, pattern } from '../support/io-rings.ts';

const make = ioRings();

describe('guest memory as buffers', () => {
  /** RAM at 0x0-0x1000, 0x1000-0x3000 and 0x8000-0x9000 */
  const setUp = () => {
    const ring = make.ring({});
    const whole = new Uint8Array(0x5000);
    const memory = new GuestMemory([
      { base: 0x8000, bytes: whole.subarray(0x4000, 0x5000) },
      { base: 0, bytes: whole.subarray(0, 0x1000) },
      { base: 0x1000, bytes: whole.subarray(0x1000, 0x3000) },
    ]);
    return { ring, memory, whole, buffers: new GuestBuffers(ring, memory), vector: new IoVector() };
  };

  test.each([
    ['within one window', 0x100, 0x200, 1],
    ['a whole window', 0x1000, 0x2000, 1],
    ['in the last window', 0x8ff0, 0x10, 1],
    ['over a border', 0xff0, 0x20, 2],
    ['over two whole windows', 0, 0x3000, 2],
    ['nothing', 0x100, 0, 0],
  ])('%s is where the file goes', (_, address, length, pieces) => {
    const { ring, memory, buffers, vector } = setUp();
    // from a window that is not the first one's
    buffers.append(vector, 0x8000, 1);
    vector.clear();
    buffers.append(vector, address, length);
    expect(vector.count).toBe(pieces);
    expect(vector.byteLength).toBe(length);
    const { fd } = make.file(pattern(0x4000));
    const owner = new Listener();
    ring.queue(IO.read, fd, 0, 0, vector, owner, 0);
    ring.drain();
    expect(owner.results.get(0)).toBe(length);
    expect(Buffer.compare(memory.read(address, length), pattern(0x4000).subarray(0, length))).toBe(0);
  });

  test.each([
    ['behind a window', 0x2ff0, 0x20],
    ['in a hole', 0x5000, 1],
    ['behind all', 0x9000, 1],
    ['below 0', -1, 2],
    ['nowhere', NaN, 1],
    ['very high', 2 ** 63, 1],
  ])('%s is a fault', (_, address, length) => {
    const { buffers, vector } = setUp();
    expect(() => buffers.append(vector, address, length)).toThrow(GuestFault);
  });

  test('several ranges make one vector', () => {
    const { buffers, vector } = setUp();
    buffers.append(vector, 0x10, 0x10);
    buffers.append(vector, 0x8000, 0x20);
    buffers.append(vector, 0xfff, 2);
    expect([...vector.lengths.subarray(0, vector.count)]).toEqual([0x10, 0x20, 1, 1]);
    expect([...vector.offsets.subarray(0, vector.count)]).toEqual([0x10, 0, 0xfff, 0]);
  });

  test('release lets go of all windows', () => {
    const { ring, buffers, vector } = setUp();
    buffers.append(vector, 0, 1);
    buffers.release();
    buffers.release();
    const owner = new Listener();
    ring.queue(IO.read, make.file(pattern(1)).fd, 0, 0, vector, owner, 0);
    ring.drain();
    expect(owner.results.get(0)).toBe(-14);
    expect(() => buffers.append(vector, 0, 1)).toThrow(GuestFault);
  });
});
