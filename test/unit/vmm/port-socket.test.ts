import { once } from 'node:events';
import { existsSync, linkSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ConsoleDevice } from '../../../src/devices/console/device.ts';
import { HostPort } from '../../../src/vmm/host-port.ts';
import { PortSocket } from '../../../src/vmm/port-socket.ts';
import { ConsoleRig } from '../devices/console/support.ts';

const OPEN = 6;

let directory: string;
let path: string;
let lines: string[];
let open: { close(): unknown }[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvm-port-'));
  path = join(directory, 'agent.sock');
  lines = [];
  open = [];
});

afterEach(async () => {
  for (const each of open.reverse()) await each.close();
  rmSync(directory, { recursive: true });
});

async function listen(at = path, port = new HostPort('org.example.a')): Promise<PortSocket> {
  const socket = await PortSocket.listen(at, port, { log: (line) => lines.push(line) });
  open.push(socket);
  return socket;
}

/** A socket with a guest behind it that has the port open. */
async function connected(options: { guestOpen?: boolean; reads?: boolean } = {}) {
  const port = new HostPort('org.example.a');
  const socket = await listen(path, port);
  const device = new ConsoleDevice({ name: 'console0', ports: [{ name: port.name, backend: port }] });
  const rig = new ConsoleRig(device);
  await rig.startMultiport();
  await rig.control(1, 3, 1);
  if (options.guestOpen !== false) await rig.control(1, OPEN, 1);
  if (options.reads !== false) rig.giveBuffers(1, 8, 4096);
  rig.messages();
  return { port, socket, device, rig };
}

type Rig = ConsoleRig;

const eventually = <T>(check: () => T): Promise<T> => vi.waitFor(check, { timeout: 10_000, interval: 5 });

/** The states of the host's end that the guest has been told since. */
const told = (rig: Rig): number[] =>
  rig
    .messages()
    .filter(({ event }) => event === OPEN)
    .map(({ value }) => value);

async function client(allowHalfOpen = false): Promise<Socket & { text: () => string }> {
  const socket = connect({ path, allowHalfOpen });
  const pieces: Buffer[] = [];
  await once(socket, 'connect');
  socket.on('error', () => undefined);
  return Object.assign(socket, {
    text: () => {
      for (let piece = socket.read() as Buffer | null; piece !== null; piece = socket.read() as Buffer | null)
        pieces.push(piece);
      return Buffer.concat(pieces).toString();
    },
  });
}

/** What the guest's program reads until it has so much. */
async function guestReads(rig: Rig, length: number): Promise<string> {
  const pieces: string[] = [];
  let seen = 0;
  await vi.waitFor(
    () => {
      const piece = rig.read(1, { giveAgain: true });
      pieces.push(piece);
      seen += piece.length;
      if (seen < length) throw new Error(`${seen} of ${length} bytes`);
    },
    { timeout: 10_000, interval: 1 },
  );
  return pieces.join('');
}

describe('a client', () => {
  test('opens the port to the guest, and closes it by going', async () => {
    const { rig, socket } = await connected();
    const one = await client();
    await eventually(() => expect(told(rig)).toEqual([1]));
    one.destroy();
    await eventually(() => expect(told(rig)).toEqual([0]));
    expect(socket.isConnected).toBe(false);
  });

  test('talks with the guest both ways', async () => {
    const { rig, port } = await connected();
    const one = await client();
    one.write('to the guest');
    expect(await guestReads(rig, 12)).toBe('to the guest');
    expect(port.guestOpen).toBe(true);
    rig.write(1, 'to the client');
    await eventually(() => expect(one.text()).toBe('to the client'));
  });

  test('that comes before the guest’s program is heard once that has opened the port', async () => {
    const { rig } = await connected({ guestOpen: false });
    const one = await client();
    one.write('early');
    await sleep(20);
    expect(rig.read(1)).toBe('');
    await rig.control(1, OPEN, 1);
    await eventually(() => expect(rig.read(1)).toBe('early'));
  });

  test('that shuts its sending side down still hears the answer, and then its going is noticed', async () => {
    const { rig } = await connected();
    const one = await client(true);
    one.end('question');
    expect(await guestReads(rig, 8)).toBe('question');
    expect(told(rig)).toEqual([1]);
    await sleep(400);
    expect(told(rig)).toEqual([]);
    rig.write(1, 'answer');
    await eventually(() => expect(one.text()).toBe('answer'));
    one.destroy();
    await eventually(() => expect(told(rig)).toEqual([0]));
  });

  test('that sends and goes at once is heard to the end', async () => {
    const { rig } = await connected();
    const text = 'x'.repeat(50_000);
    const one = await client();
    one.end(text, () => one.destroy());
    await once(one, 'close');
    expect(await guestReads(rig, text.length)).toBe(text);
    await eventually(() => expect(told(rig).at(-1)).toBe(0));
  });

  test('after another one finds the port open again', async () => {
    const { rig } = await connected();
    for (let i = 0; i < 3; i++) {
      const one = await client();
      one.write(`${i}`);
      expect(await guestReads(rig, 1)).toBe(`${i}`);
      one.destroy();
      await eventually(() => expect(told(rig).at(-1)).toBe(0));
    }
  });
});

describe('a second client', () => {
  test('is turned away at once, with a line in the log, and the first one is not disturbed', async () => {
    const { rig } = await connected();
    const one = await client();
    await eventually(() => expect(told(rig)).toEqual([1]));
    const two = connect(path);
    await once(two, 'close');
    expect(lines).toEqual([
      `port org.example.a: another client of ${path} was turned away, one is connected`,
    ]);
    rig.write(1, 'still');
    await eventually(() => expect(one.text()).toBe('still'));
    expect(told(rig)).toEqual([]);
  });

  test('takes over from one that is gone with input that the guest never took', async () => {
    const { rig } = await connected({ guestOpen: false });
    const one = await client();
    one.write('never taken');
    await sleep(20);
    one.destroy();
    await sleep(20);
    const two = await client();
    two.write('mine');
    await sleep(200);
    await rig.control(1, OPEN, 1);
    expect(await guestReads(rig, 4)).toBe('mine');
    expect(lines).toEqual([]);
    // closed and opened again: the guest sees that it is another one
    expect(told(rig)).toEqual([1, 0, 1]);
  });

  test('is turned away where the port is in use within the process', async () => {
    const { port } = await connected();
    const stream = port.open();
    const two = connect(path);
    await once(two, 'close');
    expect(lines[0]).toMatch(/the port is in use/);
    stream.destroy();
  });
});

describe('back-pressure', () => {
  test('a client that stalls makes the guest wait, with bounded memory, and loses nothing', async () => {
    const { rig } = await connected();
    const one = await client();
    one.pause();
    await eventually(() => expect(told(rig)).toEqual([1]));
    const queue = rig.transmitQueue(1);
    const [block] = queue.place([{ bytes: new Uint8Array(32 * 1024) }]);
    let sent = 0;
    for (; sent < 400; sent++) {
      queue.collect();
      if (queue.availableIndex - queue.usedIndex === queue.size) break;
      rig.writeFrom(1, block!);
      await sleep(1);
    }
    // far fewer than were tried: what the socket's and the stream's buffers hold, and the queue itself
    expect(sent).toBeLessThan(80);
    let seen = 0;
    one.on('data', (bytes: Buffer) => (seen += bytes.length));
    one.resume();
    await eventually(() => {
      rig.machine.settle();
      expect(seen).toBe(sent * block!.length);
    });
  });

  test('a guest that does not read makes the client wait', async () => {
    const { rig } = await connected({ reads: false });
    const one = await client();
    const text = 'z'.repeat(3_000_000);
    let flushed = false;
    one.write(text, () => (flushed = true));
    await sleep(200);
    expect(flushed).toBe(false);
    rig.giveBuffers(1, 8, 4096);
    expect(await guestReads(rig, text.length)).toBe(text);
    await eventually(() => expect(flushed).toBe(true));
  });
});

describe('a machine that is reset', () => {
  test('keeps the client, which finds the next machine’s guest', async () => {
    const { rig, port, device } = await connected();
    const one = await client();
    await eventually(() => expect(told(rig)).toEqual([1]));
    device.close();
    one.write('held');
    await sleep(20);
    const next = new ConsoleRig(
      new ConsoleDevice({ name: 'console0', ports: [{ name: port.name, backend: port }] }),
    );
    await next.startMultiport();
    await next.control(1, 3, 1);
    await next.control(1, OPEN, 1);
    next.giveBuffers(1, 8, 4096);
    expect(told(next)).toEqual([1]);
    expect(await guestReads(next, 4)).toBe('held');
    next.write(1, 'new');
    await eventually(() => expect(one.text()).toBe('new'));
  });
});

describe('the end', () => {
  test('lets a client have the last output, closes it and removes the socket', async () => {
    const { rig, socket, device } = await connected();
    const one = await client();
    await eventually(() => expect(told(rig)).toEqual([1]));
    rig.write(1, 'last words');
    device.close();
    await socket.close();
    await eventually(() => expect(one.text()).toBe('last words'));
    expect(existsSync(path)).toBe(false);
  });

  test('does not wait for a client that takes nothing', async () => {
    const { rig, socket } = await connected();
    const one = await client();
    one.pause();
    await eventually(() => expect(told(rig)).toEqual([1]));
    const queue = rig.transmitQueue(1);
    const [block] = queue.place([{ bytes: new Uint8Array(32 * 1024) }]);
    for (let i = 0; i < 16; i++) {
      rig.writeFrom(1, block!);
      await sleep(1);
    }
    const before = performance.now();
    await socket.close();
    expect(performance.now() - before).toBeLessThan(8000);
  });
});

describe('the socket', () => {
  test('is for its owner alone', async () => {
    await listen();
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('leaves the umask as it was', async () => {
    const before = process.umask(0o022);
    try {
      await listen();
      writeFileSync(`${path}.other`, '');
      expect(statSync(`${path}.other`).mode & 0o777).toBe(0o644);
    } finally {
      process.umask(before);
    }
  });

  test('takes the place of one that nobody listens on', async () => {
    // A server that is killed leaves its socket; here another name of it stays.
    const dead = createServer();
    dead.listen(`${path}.2`);
    await once(dead, 'listening');
    linkSync(`${path}.2`, path);
    await new Promise((resolve) => dead.close(resolve));
    expect(existsSync(path)).toBe(true);
    await listen();
    await client();
  });

  test('is refused where another process listens', async () => {
    await listen();
    await expect(listen()).rejects.toThrow(/agent\.sock' of port org\.example\.a: another process listens/);
    expect(existsSync(path)).toBe(true);
  });

  test('is refused where a file of the name is no socket, which stays', async () => {
    writeFileSync(path, 'precious');
    await expect(listen()).rejects.toMatchObject({ name: 'PortSocketError', code: 'EEXIST', path });
    expect(statSync(path).size).toBe(8);
  });

  test('is refused in a directory that does not exist', async () => {
    await expect(listen(join(directory, 'no/a.sock'))).rejects.toThrow(/its directory does not exist/);
  });

  test('has a path of up to 107 bytes', async () => {
    const stem = `${directory}/`;
    const longest = stem + 'é'.repeat(Math.floor((107 - stem.length) / 2));
    const exact = longest + 'a'.repeat(107 - Buffer.byteLength(longest));
    await listen(exact);
    expect(existsSync(exact)).toBe(true);
    await expect(listen(`${exact}b`)).rejects.toThrow(/108 bytes, and a socket's path has at most 107/);
  });

  test('has a path relative to the working directory too', async () => {
    await listen(relative(process.cwd(), path));
    expect(existsSync(path)).toBe(true);
  });
});

describe('a port within the process', () => {
  test('is a stream for one user at a time', async () => {
    const { rig, port } = await connected();
    const stream = port.open();
    expect(() => port.open()).toThrow(/open already/);
    expect(told(rig)).toEqual([1]);
    stream.write('in');
    expect(await guestReads(rig, 2)).toBe('in');
    rig.write(1, 'out');
    const [bytes] = (await once(stream, 'data')) as [Buffer];
    expect(bytes.toString()).toBe('out');
    stream.destroy();
    expect(told(rig)).toEqual([0]);
    port.open().destroy();
  });

  test('ends with the VM, and so does one that is opened later', async () => {
    const { port } = await connected();
    const stream = port.open();
    port.close();
    stream.resume();
    await once(stream, 'end');
    const failure = once(stream, 'error');
    stream.write('x');
    expect((await failure)[0]).toMatchObject({
      message: expect.stringMatching(/the VM has ended/) as string,
    });
    const later = port.open();
    later.resume();
    await once(later, 'end');
    later.destroy();
  });
});
