import { execFile } from 'node:child_process';
import { constants, fstatSync, openSync, closeSync, readFileSync } from 'node:fs';
import { constants as os } from 'node:os';
import { promisify } from 'node:util';
import { describe, expect, test, vi } from 'vitest';
import { GuestRam } from '../../src/kvm/memory.ts';
import { IO, IoRing } from '../../src/kvm/io-ring.ts';
import { IoVector } from '../../src/kvm/io-vector.ts';
import { bundleScript } from '../support/bundle-script.ts';
import { ENGINES, ioRings, Listener, pattern, vectorOf } from '../support/io-rings.ts';

const { EBADF, EFAULT, EINVAL, EIO, ENOSPC } = os.errno;
const MIB = 2 ** 20;
const make = ioRings();

describe('the engine', () => {
  test.each(ENGINES)('is %s where that is asked for', (engine) => {
    expect(make.ring({ engine }).engine).toBe(engine);
  });

  test('is io_uring by default where that works', () => {
    vi.stubEnv('TSVM_IO_ENGINE', undefined);
    expect(make.ring({}).engine).toBe(ENGINES[0]);
    vi.unstubAllEnvs();
  });

  test('is what the environment says, unless the caller knows better', () => {
    vi.stubEnv('TSVM_IO_ENGINE', 'threads');
    expect(make.ring({}).engine).toBe('threads');
    expect(make.ring({ engine: ENGINES[0]! }).engine).toBe(ENGINES[0]);
    vi.stubEnv('TSVM_IO_ENGINE', 'aio');
    expect(() => new IoRing()).toThrow('TSVM_IO_ENGINE must be io_uring or threads, not aio');
    vi.unstubAllEnvs();
  });
});

describe('where the kernel has no io_uring, or a container forbids it', () => {
  // io_uring_setup is system call 425; python3 is what builds the addon too
  const REFUSE = `
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
program = struct.pack('=HBBI', 0x20, 0, 0, 0) + struct.pack('=HBBI', 0x15, 0, 1, 425)
program += struct.pack('=HBBI', 0x06, 0, 0, 0x00050000 | int(sys.argv[1])) + struct.pack('=HBBI', 0x06, 0, 0, 0x7fff0000)
instructions = ctypes.create_string_buffer(program)
header = struct.pack('=HxxxxxxQ', 4, ctypes.addressof(instructions))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0): sys.exit('no seccomp')
os.execvp(sys.argv[2], sys.argv[2:])`;

  test.each([
    ['EPERM', os.errno.EPERM],
    ['ENOSYS', os.errno.ENOSYS],
  ])('with %s, threads take its place unless it was asked for', async (code, errno) => {
    const script = await bundleScript(`
      import { openSync } from 'node:fs';
      import { IO, IoRing } from './src/kvm/io-ring.ts';
      const ring = new IoRing();
      let result = 1;
      const owner = { completed: (_: number, got: number) => (result = got), batchEnd: () => undefined };
      ring.queue(IO.sync, openSync('/tmp', 'r'), 0, 0, undefined, owner, 0);
      ring.drain();
      let refused;
      try {
        new IoRing({ engine: 'io_uring' });
      } catch (error) {
        refused = { name: error.name, code: error.code, request: error.request };
      }
      console.log(JSON.stringify({ engine: ring.engine, result, refused }));`);
    const args = ['-c', REFUSE, `${errno}`, process.execPath, script];
    const env = { ...process.env, TSVM_IO_ENGINE: '' };
    const { stdout } = await promisify(execFile)('python3', args, { env, timeout: 30_000 });
    const refused = { name: 'KvmError', code, request: 'I/O ring' };
    expect(JSON.parse(stdout)).toEqual({ engine: 'threads', result: 0, refused });
  });
});

describe.each(ENGINES)('%s', (engine) => {
  const setUp = (contents: Uint8Array, flags?: number, entries = 64) => {
    const ring = make.ring({ engine, entries });
    const memory = new Uint8Array(MIB);
    return {
      ring,
      memory,
      buffer: ring.register(memory),
      owner: new Listener(),
      ...make.file(contents, flags),
    };
  };

  describe('reads', () => {
    test('fill the pieces in their order', async () => {
      const { ring, memory, buffer, owner, fd } = setUp(pattern(MIB));
      const second = new Uint8Array(100);
      const vector = vectorOf([buffer, 1000, 3], [ring.register(second), 50, 20], [buffer, 0, 500]);
      ring.queue(IO.read, fd, 12345, 523, vector, owner, 7);
      ring.submit();
      expect(await owner.result(7)).toBe(523);
      const read = Buffer.concat([
        memory.subarray(1000, 1003),
        second.subarray(50, 70),
        memory.subarray(0, 500),
      ]);
      expect(read.equals(pattern(MIB).subarray(12345, 12345 + 523))).toBe(true);
    });

    test('touch nothing beside their pieces', async () => {
      const { ring, memory, buffer, owner, fd } = setUp(pattern(MIB));
      memory.fill(0xee);
      ring.queue(IO.read, fd, 0, 10, vectorOf([buffer, 100, 5], [buffer, 200, 5]), owner, 1);
      ring.submit();
      await owner.result(1);
      const expected = new Uint8Array(MIB).fill(0xee);
      expected.set(pattern(5), 100);
      expected.set(pattern(MIB).subarray(5, 10), 200);
      expect(Buffer.compare(memory, expected)).toBe(0);
    });

    test('are short at the end of the file, and nothing behind it', async () => {
      const { ring, memory, buffer, owner, fd } = setUp(pattern(1000));
      ring.queue(IO.read, fd, 900, 400, vectorOf([buffer, 0, 60], [buffer, 100, 340]), owner, 1);
      ring.queue(IO.read, fd, 1000, 8, vectorOf([buffer, 500, 8]), owner, 2);
      ring.queue(IO.read, fd, 2 ** 40, 8, vectorOf([buffer, 500, 8]), owner, 3);
      ring.submit();
      await owner.count(3);
      expect([...owner.results].sort()).toEqual([
        [1, 100],
        [2, 0],
        [3, 0],
      ]);
      expect(Buffer.compare(memory.subarray(100, 140), pattern(1000).subarray(960))).toBe(0);
    });

    test('of no bytes complete with 0', async () => {
      const { ring, owner, fd } = setUp(pattern(1000));
      ring.queue(IO.read, fd, 0, 0, new IoVector(), owner, 1);
      ring.queue(IO.write, fd, 0, 0, undefined, owner, 2);
      ring.submit();
      expect([await owner.result(1), await owner.result(2)]).toEqual([0, 0]);
    });

    // the kernel takes 1024 in one call
    test.each([1024, 1025, 8192])('have up to 8192 pieces: %i', async (count) => {
      const { ring, memory, buffer, owner, fd } = setUp(pattern(MIB));
      const vector = new IoVector();
      for (let i = 0; i < count; i++) vector.add(buffer, (count - 1 - i) * 64, 64);
      ring.queue(IO.read, fd, 64, 0, vector, owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(count * 64);
      const expected = pattern(MIB).subarray(64);
      for (const i of [0, 1, 1023, 1024, count - 1].filter((i) => i < count)) {
        const at = (count - 1 - i) * 64;
        expect(Buffer.compare(memory.subarray(at, at + 64), expected.subarray(i * 64, i * 64 + 64))).toBe(0);
      }
    });

    test('of more pieces are refused, and requests around them are not', async () => {
      const { ring, buffer, owner, fd } = setUp(pattern(MIB));
      const vector = new IoVector();
      for (let i = 0; i < 8193; i++) vector.add(buffer, i, 1);
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, 512]), owner, 1);
      ring.queue(IO.read, fd, 0, 0, vector, owner, 2);
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, 512]), owner, 3);
      ring.submit();
      await owner.count(3);
      expect(owner.results).toEqual(
        new Map([
          [1, 512],
          [2, -EINVAL],
          [3, 512],
        ]),
      );
    });
  });

  describe('direct I/O', () => {
    const direct = (contents: Uint8Array) => {
      const ram = new GuestRam({ ranges: [{ base: 0, size: MIB }] });
      const { ring, owner, fd, path } = setUp(contents, constants.O_DIRECT);
      return { ring, owner, fd, path, ram, buffer: ring.register(ram.memory.windows[0]!.bytes) };
    };

    test('moves whole blocks', async () => {
      const { ring, owner, fd, path, ram, buffer } = direct(pattern(MIB));
      ring.queue(IO.read, fd, 8192, 0, vectorOf([buffer, 0, 4096], [buffer, 65536, 4096]), owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(8192);
      expect(Buffer.compare(ram.memory.read(65536, 4096), pattern(MIB).subarray(12288, 16384))).toBe(0);
      ring.queue(IO.write, fd, 0, 0, vectorOf([buffer, 65536, 4096]), owner, 2);
      ring.submit();
      expect(await owner.result(2)).toBe(4096);
      expect(readFileSync(path).subarray(0, 4096).equals(pattern(MIB).subarray(12288, 16384))).toBe(true);
    });

    test('reads up to an end of the file within a sector', async () => {
      const { ring, owner, fd, buffer } = direct(pattern(10_000));
      ring.queue(IO.read, fd, 8192, 0, vectorOf([buffer, 0, 8192]), owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(10_000 - 8192);
    });

    test('of odd ranges is refused', async () => {
      const { ring, owner, fd, buffer } = direct(pattern(MIB));
      ring.queue(IO.read, fd, 100, 0, vectorOf([buffer, 0, 4096]), owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(-EINVAL);
    });
  });

  describe('writes', () => {
    test('take the pieces in their order, and grow the file', async () => {
      const { ring, memory, buffer, owner, fd, path } = setUp(new Uint8Array(10));
      memory.set(pattern(MIB));
      ring.queue(IO.write, fd, 5, 0, vectorOf([buffer, 600, 10], [buffer, 20, 2]), owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(12);
      const expected = Buffer.concat([Buffer.alloc(5), memory.subarray(600, 610), memory.subarray(20, 22)]);
      expect(readFileSync(path).equals(expected)).toBe(true);
    });

    test('that find no space end with ENOSPC', async () => {
      const { ring, buffer, owner } = setUp(new Uint8Array(0));
      const fd = openSync('/dev/full', 'r+');
      ring.queue(IO.write, fd, 0, 0, vectorOf([buffer, 0, 4096]), owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(-ENOSPC);
      closeSync(fd);
    });
  });

  describe('other operations', () => {
    test('sync completes with 0', async () => {
      const { ring, buffer, owner, fd } = setUp(new Uint8Array(0));
      ring.queue(IO.write, fd, 0, 0, vectorOf([buffer, 0, 4096]), owner, 1);
      ring.submit();
      await owner.result(1);
      ring.queue(IO.sync, fd, 0, 0, undefined, owner, 2);
      ring.submit();
      expect(await owner.result(2)).toBe(0);
    });

    test('punch gives space back, the range reads as zeros, and the size stays', async () => {
      const { ring, owner, fd, path } = setUp(pattern(MIB));
      const before = make.blocks(fd);
      ring.queue(IO.punch, fd, 65536, 524288, undefined, owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(0);
      expect(before - make.blocks(fd)).toBe(1024);
      const expected = pattern(MIB).fill(0, 65536, 65536 + 524288);
      expect(readFileSync(path).equals(expected)).toBe(true);
    });

    test('zero makes zeros, keeps their space, and the size stays', async () => {
      const { ring, owner, fd, path } = setUp(pattern(MIB));
      const before = make.blocks(fd);
      ring.queue(IO.zero, fd, 1000, MIB, undefined, owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(0);
      expect(make.blocks(fd)).toBeGreaterThanOrEqual(before);
      expect(readFileSync(path).equals(pattern(MIB).fill(0, 1000))).toBe(true);
    });

    test('allocate takes space, and the size stays', async () => {
      const { ring, owner, fd } = setUp(new Uint8Array(0));
      ring.queue(IO.allocate, fd, 0, MIB, undefined, owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(0);
      expect(make.blocks(fd)).toBeGreaterThanOrEqual(2048);
      expect(fstatSync(fd).size).toBe(0);
    });
  });

  describe('errors', () => {
    test('a descriptor that is not open, or not for this, gives EBADF', async () => {
      const { ring, buffer, owner, path } = setUp(pattern(100));
      const fd = openSync(path, 'r');
      ring.queue(IO.read, 99_999, 0, 0, vectorOf([buffer, 0, 1]), owner, 1);
      ring.queue(IO.sync, -1, 0, 0, undefined, owner, 2);
      ring.queue(IO.punch, 99_999, 0, 4096, undefined, owner, 3);
      ring.queue(IO.write, fd, 0, 0, vectorOf([buffer, 0, 1]), owner, 4);
      ring.submit();
      await owner.count(4);
      expect([...owner.results.values()]).toEqual([-EBADF, -EBADF, -EBADF, -EBADF]);
      closeSync(fd);
    });

    test('the host’s EIO arrives as such', async () => {
      const { ring, buffer, owner } = setUp(pattern(100));
      // nothing is mapped at the start of a process's memory
      const fd = openSync('/proc/self/mem', 'r');
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, 1]), owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(-EIO);
      closeSync(fd);
    });

    test.each([-1, 0.5, NaN, Infinity, 2 ** 53])('an offset of %d gives EINVAL', async (offset) => {
      const { ring, buffer, owner, fd } = setUp(pattern(100));
      ring.queue(IO.read, fd, offset, 0, vectorOf([buffer, 0, 1]), owner, 1);
      ring.queue(IO.punch, fd, offset, 4096, undefined, owner, 2);
      ring.submit();
      expect([await owner.result(1), await owner.result(2)]).toEqual([-EINVAL, -EINVAL]);
    });

    test('memory outside of its buffer gives EFAULT', async () => {
      const { ring, buffer, owner, fd } = setUp(pattern(100));
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, 10], [buffer, MIB - 1, 2]), owner, 1);
      ring.queue(IO.read, fd, 0, 0, vectorOf([buffer + 1, 0, 1]), owner, 2);
      ring.submit();
      expect([await owner.result(1), await owner.result(2)]).toEqual([-EFAULT, -EFAULT]);
    });
  });

  describe('many requests', () => {
    test('more than there is room for complete once each', async () => {
      const { ring, memory, buffer, owner, fd } = setUp(pattern(MIB), 0, 16);
      const vector = new IoVector();
      for (let i = 0; i < 5000; i++) {
        vector.clear();
        vector.add(buffer, (i * 200) % 1_000_000, 100);
        vector.add(buffer, ((i * 200) % 1_000_000) + 100, 100);
        ring.queue(IO.read, fd, (i * 200) % 1_000_000, 0, vector, owner, i);
      }
      expect(ring.inFlight).toBe(5000);
      ring.submit();
      await owner.count(5000);
      expect(ring.inFlight).toBe(0);
      expect([...owner.results.values()].every((result) => result === 200)).toBe(true);
      expect(Buffer.compare(memory.subarray(0, 1_000_000), pattern(MIB).subarray(0, 1_000_000))).toBe(0);
    });

    test('reach the host in their order', async () => {
      // one at a time: the next one goes when the one before it is over
      const { ring, buffer, owner, fd } = setUp(new Uint8Array(0), constants.O_APPEND, 1);
      for (let i = 0; i < 300; i++) ring.queue(IO.write, fd, 0, 0, vectorOf([buffer, i, 1]), owner, i);
      ring.submit();
      await owner.count(300);
      expect([...owner.results.keys()]).toEqual(Array.from({ length: 300 }, (_, i) => i));
    });

    test('that follow one another without end leave other events their turn', async () => {
      const { ring, buffer, fd } = setUp(pattern(MIB));
      let rounds = 0;
      let ended = false;
      const post = () => ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, 512]), owner, 0);
      const owner = {
        completed: () => {
          rounds++;
        },
        batchEnd: () => {
          if (!ended) post();
          ring.submit();
        },
      };
      post();
      ring.submit();
      await new Promise((resolve) => setTimeout(resolve, 20));
      ended = true;
      expect(rounds).toBeGreaterThan(16);
    });
  });

  describe('files without end', () => {
    test('requests of more than one system call moves are gone on with', async () => {
      const ram = new GuestRam({ ranges: [{ base: 0, size: 2 ** 31 }] });
      const { ring, owner } = setUp(new Uint8Array(0));
      const buffer = ring.register(ram.memory.windows[0]!.bytes);
      // it has the size 0 and takes any number of bytes, though never more than 2 GiB - 4 KiB at a time
      const fd = openSync('/dev/null', 'r+');
      ring.queue(IO.write, fd, 0, 0, vectorOf([buffer, 0, 2 ** 31], [buffer, 0, 2 ** 31]), owner, 1);
      ring.submit();
      expect(await owner.result(1)).toBe(2 ** 32);
      closeSync(fd);
      ram.close();
    });
  });
});
