import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { GuestRam } from '../../src/kvm/memory.ts';
import { IO, IoRing } from '../../src/kvm/io-ring.ts';
import { bundleScript } from '../support/bundle-script.ts';
import { ENGINES, ioRings, Listener, pattern, vectorOf } from '../support/io-rings.ts';
import type { IoTask } from '../support/io-worker.ts';
import { resources } from '../support/resources.ts';

const make = ioRings();
const run = promisify(execFile);
let folder: string;
let path: string;
let worker: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-io-life-'));
  path = join(folder, 'disk');
  writeFileSync(path, pattern(8 * 2 ** 20));
  worker = await bundleScript(`import './test/support/io-worker.ts';`);
});
afterAll(() => rmSync(folder, { recursive: true }));

const collect = async (): Promise<void> => {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
};

async function script(text: string): Promise<{ stdout: string; seconds: number }> {
  const file = await bundleScript(`
    import { openSync } from 'node:fs';
    import { IO, IoRing } from './src/kvm/io-ring.ts';
    import { IoVector } from './src/kvm/io-vector.ts';
    import { load } from './test/support/io-worker.ts';
    const say = (text: string) => process.stdout.write(text + ' ' + Date.now() + '\\n');
    ${text}`);
  const { stdout } = await run(process.execPath, [file], { timeout: 50_000 });
  const [said = '', at = ''] = stdout.trim().split(' ');
  return { stdout: said, seconds: (Date.now() - Number(at)) / 1000 };
}

describe.each(ENGINES)('%s', (engine) => {
  const start = (task: Partial<IoTask> = {}): Worker =>
    new Worker(worker, { workerData: { engine, path, rounds: 300, ...task }, execArgv: [] });

  test('a worker that is terminated with requests in flight leaves nothing, at any moment', async () => {
    const first = start();
    await once(first, 'message');
    await first.terminate();
    const before = resources();
    for (let round = 0; round < 8; round++) {
      const one = start();
      await once(one, 'message');
      await new Promise((resolve) => setTimeout(resolve, round));
      await one.terminate();
    }
    await vi.waitFor(() => expect(resources().threads).toBeLessThanOrEqual(before.threads), 10_000);
    // descriptors that the script opened are its own
    expect(resources().maps).toBeLessThanOrEqual(before.maps);
  });

  test('a worker that exits out of a completion ends in order', async () => {
    const [code] = (await once(start({ end: 'exit' }), 'exit')) as [number];
    expect(code).toBe(0);
  });

  test('a worker whose callback throws ends with that error', async () => {
    const [error] = (await once(start({ end: 'throw' }), 'error')) as [Error];
    expect(error.message).toBe('a bug in the device');
  });

  test('a process that exits with requests in flight ends promptly', async () => {
    const { stdout, seconds } = await script(
      `load(${JSON.stringify({ engine, path, rounds: 0 })}, () => { say('exiting'); process.exit(0); });`,
    );
    expect(stdout).toBe('exiting');
    expect(seconds).toBeLessThan(5);
  });

  test('a process with an idle ring ends by itself', async () => {
    const { stdout } = await script(`
      const ring = new IoRing({ engine: '${engine}' });
      const owner = { completed: () => say('done'), batchEnd: () => undefined };
      ring.queue(IO.sync, openSync(${JSON.stringify(path)}, 'r+'), 0, 0, undefined, owner, 0);
      ring.drain();
      globalThis.ring = ring;`);
    expect(stdout).toBe('done');
  });

  test('a process lives as long as requests are in flight, and no longer', async () => {
    const { stdout } = await script(`
      const ring = new IoRing({ engine: '${engine}' });
      const fd = openSync(${JSON.stringify(path)}, 'r+');
      let left = 20;
      const owner = {
        completed: () => (--left === 0 ? say('done') : ring.queue(IO.sync, fd, 0, 0, undefined, owner, 0)),
        batchEnd: () => ring.submit(),
      };
      ring.queue(IO.sync, fd, 0, 0, undefined, owner, 0);
      ring.submit();
      globalThis.ring = ring;`);
    expect(stdout).toBe('done');
  });

  test('rings that are dropped are collected, those at work when they are done', async () => {
    const make = async (count: number): Promise<Listener> => {
      const heard = new Listener();
      const fd = openSync(path, 'r+');
      for (let i = 0; i < count; i++) {
        const ring = new IoRing({ engine, entries: 8 });
        const buffer = ring.register(new Uint8Array(65536));
        ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, 0, 65536]), heard, 2 * i);
        ring.queue(IO.sync, fd, 0, 0, undefined, heard, 2 * i + 1);
        ring.submit();
      }
      await heard.count(2 * count);
      closeSync(fd);
      return heard;
    };
    await make(3);
    await collect();
    const before = resources();
    const heard = await make(40);
    expect([...heard.results.values()].filter((result) => result === 65536)).toHaveLength(40);
    await vi.waitFor(
      async () => {
        await collect();
        const now = resources();
        expect(now.fds - before.fds).toBeLessThanOrEqual(3);
        expect(now.threads - before.threads).toBeLessThanOrEqual(8);
      },
      { timeout: 20_000 },
    );
  });

  test('buffers that only the ring knows stay while it uses them', async () => {
    const ring = make.ring({ engine, entries: 4 });
    const { fd, path: written } = make.file(new Uint8Array(0));
    const owner = new Listener();
    for (let i = 0; i < 64; i++) {
      const buffer = ring.register(new Uint8Array(65536).fill(i + 1));
      ring.queue(IO.write, fd, i * 65536, 0, vectorOf([buffer, 0, 65536]), owner, i);
      ring.unregister(buffer);
      if (i % 4 === 0) ring.submit();
      // room that was freed too early would be used again by these
      if (i % 8 === 0) globalThis.gc?.();
      new Uint8Array(65536).fill(0xff);
    }
    ring.submit();
    await collect();
    await owner.count(64);
    const bytes = readFileSync(written);
    for (let i = 0; i < 64; i++) {
      expect(bytes.subarray(i * 65536, (i + 1) * 65536).equals(Buffer.alloc(65536, i + 1))).toBe(true);
    }
  });

  test('a buffer that is registered and unregistered again and again costs no memory', () => {
    const ring = make.ring({ engine, entries: 4 });
    const bytes = new Uint8Array(64);
    const registerOften = (): void => {
      for (let i = 0; i < 100_000; i++) ring.unregister(ring.register(bytes));
      globalThis.gc?.();
    };
    registerOften();
    const before = process.memoryUsage().heapUsed;
    registerOften();
    expect(globalThis.gc).toBeTypeOf('function');
    // an entry that stays is at least two words
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(500_000);
  });

  test('guest memory that is closed while requests are in flight is given back, and they complete', async () => {
    const ring = make.ring({ engine });
    const fd = openSync(path, 'r');
    for (let round = 0; round < 10; round++) {
      const ram = new GuestRam({ ranges: [{ base: 0, size: 8 * 2 ** 20 }] });
      const buffer = ring.register(ram.memory.windows[0]!.bytes);
      const owner = new Listener();
      for (let i = 0; i < 16; i++) {
        ring.queue(IO.read, fd, 0, 0, vectorOf([buffer, (i % 8) * 2 ** 20, 2 ** 20]), owner, i);
      }
      ring.unregister(buffer);
      ring.submit();
      ram.close();
      await owner.count(16);
      expect(new Set(owner.results.values())).toEqual(new Set([2 ** 20]));
    }
    closeSync(fd);
  });

  test('close with requests in flight gives threads and descriptors back at once', () => {
    const once = (): void => {
      const ring = new IoRing({ engine });
      const fd = openSync(path, 'r+');
      for (let i = 0; i < 20; i++) ring.queue(IO.sync, fd, 0, 0, undefined, new Listener(), i);
      ring.submit();
      ring.close();
      closeSync(fd);
    };
    once();
    const before = resources();
    for (let i = 0; i < 20; i++) once();
    const now = resources();
    expect(now.fds).toBe(before.fds);
    // io_uring's workers are the kernel's, which ends them when they have been idle
    if (engine === 'threads') expect(now.threads).toBe(before.threads);
  });

  test('a full file system gives ENOSPC, in the middle of a write too', async (context) => {
    const full = join(folder, `full-${engine}`);
    mkdirSync(full, { recursive: true });
    const file = await bundleScript(`
      import { openSync } from 'node:fs';
      import { IO, IoRing } from './src/kvm/io-ring.ts';
      import { IoVector } from './src/kvm/io-vector.ts';
      const ring = new IoRing({ engine: '${engine}' });
      const buffer = ring.register(new Uint8Array(2 ** 20).fill(1));
      const fd = openSync(${JSON.stringify(join(full, 'disk'))}, 'w+');
      const results: number[] = [];
      const owner = { completed: (_: number, result: number) => results.push(result), batchEnd: () => undefined };
      const vector = new IoVector();
      vector.add(buffer, 0, 2 ** 20);
      for (let i = 0; i < 2; i++) {
        ring.queue(IO.write, fd, i * 2 ** 20, 0, vector, owner, 0);
        ring.drain();
      }
      ring.queue(IO.allocate, fd, 0, 2 ** 22, undefined, owner, 0);
      ring.drain();
      console.log(JSON.stringify(results));`);
    const user = process.getuid?.() === 0 ? [] : ['-r'];
    const mount = 'mount -t tmpfs -o size=1536k none "$0" && exec "$1" "$2"';
    const unshare = (command: string[]) => run('unshare', ['-m', ...user, ...command], { timeout: 30_000 });
    try {
      await unshare(['sh', '-c', 'mount -t tmpfs none "$0"', full]);
    } catch {
      context.skip('this user may not mount');
    }
    const { stdout } = await unshare(['sh', '-c', mount, full, process.execPath, file]);
    expect(JSON.parse(stdout)).toEqual([2 ** 20, -28, -28]);
  });
});
