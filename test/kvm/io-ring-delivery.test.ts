import { describe, expect, test, vi } from 'vitest';
import { constants as os } from 'node:os';
import { KvmError } from '../../src/kvm/errors.ts';
import { IO, type IoOwner, type IoRing } from '../../src/kvm/io-ring.ts';
import { ENGINES, ioRings, Listener, pattern, vectorOf } from '../support/io-rings.ts';

const make = ioRings();

describe.each(ENGINES)('%s', (engine) => {
  const setUp = (entries = 64) => {
    const ring = make.ring({ engine, entries });
    const memory = new Uint8Array(65536);
    const buffer = ring.register(memory);
    const { fd } = make.file(pattern(65536));
    const read = (owner: IoOwner, cookie: number): void =>
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, 4096]), owner, cookie);
    const sync = (owner: IoOwner, cookie: number): void =>
      ring.queue(IO.sync, fd, 0, 0, undefined, owner, cookie);
    return { ring, fd, buffer, memory, read, sync, owner: new Listener() };
  };

  describe('delivery', () => {
    test('happens neither while requests are queued nor before they are submitted', async () => {
      const { ring, owner, read } = setUp(2);
      for (let i = 0; i < 10; i++) read(owner, i);
      await new Promise((resolve) => setTimeout(resolve, 10));
      expect(ring.reap()).toBe(0);
      expect(owner.results.size).toBe(0);
      ring.submit();
      await owner.count(10);
    });

    test('ends a batch once for each owner that had completions in it', () => {
      const { ring, read } = setUp();
      const [first, second, third] = [new Listener(), new Listener(), new Listener()];
      for (let i = 0; i < 6; i++) read(i % 2 ? first : second, i);
      ring.drain();
      expect(first.results.size + second.results.size).toBe(6);
      expect(first.batches).toBeLessThanOrEqual(3);
      expect(first.batches).toBeGreaterThan(0);
      expect(second.batches).toBeGreaterThan(0);
      expect(third.batches).toBe(0);
    });

    test('does not wait for all of many bytes that are there at once', async () => {
      const { ring } = setUp();
      const megabyte = new Uint8Array(1024 * 1024);
      const buffer = ring.register(megabyte);
      const { fd } = make.file(megabyte);
      const owner = new Listener();
      const read = (cookie: number, length: number): void =>
        ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, length]), owner, cookie);
      read(0, 4096);
      ring.submit();
      const atOnce = engine === 'io_uring' && owner.batches === 1;
      await owner.count(1);
      owner.batches = 0;
      for (let i = 1; i <= 8; i++) read(i, megabyte.length);
      ring.submit();
      // Four make a slice. What is not there at once may come in any batches.
      if (atOnce) expect([owner.results.size, owner.batches]).toEqual([9, 2]);
      await owner.count(9);
      expect([...owner.results.values()].reduce((sum, result) => sum + result)).toBe(
        4096 + 8 * megabyte.length,
      );
    });

    test('takes requests of callbacks along, submitted or not', async () => {
      const { ring, owner, read } = setUp();
      owner.heard = (cookie) => {
        if (cookie >= 5) return;
        read(owner, cookie + 1);
        if (cookie % 2) ring.submit();
      };
      read(owner, 0);
      ring.submit();
      await owner.count(6);
    });

    test('by reap tells how many there were', () => {
      const { ring, owner, sync } = setUp();
      for (let i = 0; i < 5; i++) sync(owner, i);
      ring.submit();
      let seen = owner.results.size;
      for (const end = performance.now() + 10_000; seen < 5 && performance.now() < end;) seen += ring.reap();
      expect(seen).toBe(5);
      expect(owner.results.size).toBe(5);
      expect(ring.reap()).toBe(0);
    });

    test('goes on after a callback that throws, which is an uncaught exception', async () => {
      const { ring, read } = setUp();
      const others = process.listeners('uncaughtException');
      process.removeAllListeners('uncaughtException');
      const errors: unknown[] = [];
      process.on('uncaughtException', (error) => errors.push(error.message));
      const bad: IoOwner = {
        completed: (cookie) => {
          throw new Error(`completed ${cookie}`);
        },
        batchEnd: () => {
          throw new Error('batch');
        },
      };
      const good = new Listener();
      for (let i = 0; i < 4; i++) read(i % 2 ? good : bad, i);
      ring.drain();
      expect([...good.results.keys()].sort()).toEqual([1, 3]);
      await vi.waitFor(() =>
        expect(errors).toEqual(expect.arrayContaining(['completed 0', 'completed 2', 'batch'])),
      );
      process.removeAllListeners('uncaughtException');
      for (const listener of others) process.on('uncaughtException', listener);
    });

    test('of one request makes its slot free for the next: a ring of one entry serves a chain', () => {
      const { ring, owner, read } = setUp(1);
      owner.heard = (cookie) => {
        if (cookie < 100) read(owner, cookie + 1);
      };
      read(owner, 0);
      ring.drain(owner);
      expect(owner.results.size).toBe(101);
    });
  });

  describe('drain', () => {
    test('completes all before it returns, what was not submitted too', () => {
      const { ring, owner, read, sync } = setUp(4);
      for (let i = 0; i < 50; i++) (i % 5 ? read : sync)(owner, i);
      ring.drain();
      expect(owner.results.size).toBe(50);
      expect(ring.inFlight).toBe(0);
    });

    test('of one owner is over when that one has nothing in flight', () => {
      const { ring, read, sync } = setUp(4);
      const [mine, other] = [new Listener(), new Listener()];
      sync(other, 0);
      for (let i = 0; i < 20; i++) read(mine, i);
      for (let i = 1; i < 20; i++) sync(other, i);
      ring.drain(mine);
      expect(mine.results.size).toBe(20);
      expect(ring.inFlight).toBe(20 - other.results.size);
      ring.drain(other);
      expect(other.results.size).toBe(20);
    });

    test('with nothing in flight, or for an owner that never had, returns at once', () => {
      const { ring, owner } = setUp();
      ring.drain();
      ring.drain(owner);
      expect(owner.batches).toBe(0);
    });

    test('within a callback delivers the rest of the batch, and each request once', () => {
      const { ring, owner, read, sync } = setUp();
      let depth = 0;
      owner.heard = (cookie) => {
        if (cookie > 4) return;
        depth++;
        if (depth === 1) read(owner, 100);
        ring.drain(owner);
        depth--;
      };
      for (let i = 0; i < 10; i++) (i % 3 ? read : sync)(owner, i);
      ring.drain();
      expect(owner.results.size).toBe(11);
      expect(ring.inFlight).toBe(0);
    });

    test('within the end of a batch works as well', () => {
      const { ring, read } = setUp();
      const listener = new Listener();
      const owner: IoOwner = {
        completed: (cookie, result) => listener.completed(cookie, result),
        batchEnd: () => {
          if (listener.results.size === 1) {
            read(owner, 1);
            ring.drain(owner);
            expect(listener.results.get(1)).toBe(4096);
          }
        },
      };
      read(owner, 0);
      ring.drain();
      expect(listener.results.size).toBe(2);
    });
  });

  describe('buffers', () => {
    test('may start within their ArrayBuffer', () => {
      const { ring, owner, fd } = setUp();
      const whole = new Uint8Array(8192);
      const buffer = ring.register(whole.subarray(4096, 4196));
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 10, 90]), owner, 1);
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 10, 91]), owner, 2);
      ring.drain();
      expect([owner.results.get(1), owner.results.get(2)]).toEqual([90, -os.errno.EFAULT]);
      const expected = new Uint8Array(8192);
      expected.set(pattern(90), 4106);
      expect(Buffer.compare(whole, expected)).toBe(0);
    });

    test('that are unregistered serve what was queued before, and nothing afterwards', () => {
      const { ring, owner, read, buffer, memory } = setUp(2);
      for (let i = 0; i < 20; i++) read(owner, i);
      ring.unregister(buffer);
      ring.drain();
      expect(new Set(owner.results.values())).toEqual(new Set([4096]));
      memory.fill(0);
      const next = new Uint8Array(65536);
      const number = ring.register(next);
      expect(number).not.toBe(buffer);
      read(owner, 20);
      ring.drain();
      expect(owner.results.get(20)).toBe(-os.errno.EFAULT);
      expect(memory.every((byte) => byte === 0) && next.every((byte) => byte === 0)).toBe(true);
    });

    test('are limited to 4096, and their places are used again', () => {
      const { ring } = setUp();
      const bytes = new ArrayBuffer(8);
      const numbers = Array.from({ length: 4095 }, () => ring.register(bytes));
      expect(() => ring.register(bytes)).toThrow(RangeError);
      for (const number of numbers) ring.unregister(number);
      for (let i = 0; i < 10_000; i++) ring.unregister(ring.register(bytes));
    });

    test('cannot be unregistered twice', () => {
      const { ring, buffer } = setUp();
      ring.unregister(buffer);
      expect(() => ring.unregister(buffer)).toThrow(RangeError);
      expect(() => ring.unregister(-1)).toThrow(RangeError);
    });

    test('stay in this thread', () => {
      const { memory, ring, owner, read } = setUp();
      const { port1 } = new MessageChannel();
      // Node 20 sends a copy instead, later versions throw
      for (const send of [
        () => structuredClone(memory.buffer, { transfer: [memory.buffer] }),
        () => port1.postMessage(memory, [memory.buffer]),
      ]) {
        try {
          send();
        } catch (error) {
          expect((error as Error).name).toBe('DataCloneError');
        }
      }
      port1.close();
      expect(memory.length).toBe(65536);
      read(owner, 1);
      ring.drain();
      expect(memory[100]).toBe(pattern(101)[100]);
    });

    test('cannot be shared memory', () => {
      const { ring } = setUp();
      const shared = new Uint8Array(new SharedArrayBuffer(8));
      expect(() => ring.register(shared)).toThrow(TypeError);
    });
  });

  describe('close', () => {
    const closed = (ring: IoRing): void => {
      const use = (): void => ring.queue(IO.sync, 0, 0, 0, undefined, new Listener(), 0);
      expect(use).toThrow(KvmError);
      expect(use).toThrow('I/O ring is closed');
    };

    test('completes what is in flight, and refuses what comes later', () => {
      const { ring, owner, read, sync, buffer } = setUp(4);
      for (let i = 0; i < 20; i++) (i % 2 ? read : sync)(owner, i);
      ring.submit();
      for (let i = 20; i < 30; i++) read(owner, i);
      ring.close();
      expect(owner.results.size).toBe(30);
      closed(ring);
      ring.close();
      ring.submit();
      ring.drain();
      ring.unregister(buffer);
      expect(ring.reap()).toBe(0);
      expect(() => ring.register(new Uint8Array(8))).toThrow('I/O ring is closed');
      expect(ring.inFlight).toBe(0);
    });

    test('within a callback completes the rest', () => {
      const { ring, owner, read } = setUp(4);
      owner.heard = (cookie) => {
        if (cookie === 2) ring.close();
      };
      for (let i = 0; i < 20; i++) read(owner, i);
      ring.drain();
      expect(owner.results.size).toBe(20);
      closed(ring);
    });

    test('within a completion on the event loop does as well', async () => {
      const { ring, owner, sync } = setUp();
      owner.heard = () => ring.close();
      for (let i = 0; i < 20; i++) sync(owner, i);
      ring.submit();
      await owner.count(20);
      closed(ring);
    });
  });
});
