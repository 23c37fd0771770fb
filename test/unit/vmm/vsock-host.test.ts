import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { VsockDevice } from '../../../src/devices/vsock/device.ts';
import { VsockHost } from '../../../src/vmm/vsock-host.ts';
import { CID, FakeHost, OP, VsockRig, type Packet } from '../devices/vsock/support.ts';

const SEND = 2;
const BOTH = 3;
const MIB = 2 ** 20;

let directory: string;
let path: string;
let host: VsockHost;
let device: VsockDevice;
let rig: VsockRig;
let servers: Server[];
let sockets: Socket[];
/** what the guest has heard and nobody has asked for yet */
let heard: Packet[];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tsvm-vsock-'));
  path = join(directory, 'v.sock');
  servers = [];
  sockets = [];
  heard = [];
  host = await VsockHost.listen(path);
  device = new VsockDevice({ name: 'vsock0', cid: CID, backend: host });
  rig = new VsockRig(device, new FakeHost());
  rig.begin();
});

afterEach(async () => {
  device.reset();
  for (const socket of sockets) socket.destroy();
  for (const server of servers) server.close();
  await host.close();
  rmSync(directory, { recursive: true });
});

const eventually = <T>(check: () => T): Promise<T> => vi.waitFor(check, { timeout: 10_000, interval: 5 });

/** The next packet of this kind for the guest; what comes before it is passed over. */
async function hears(op: number): Promise<Packet> {
  return eventually(() => {
    heard.push(...rig.hears());
    for (let packet = heard.shift(); packet !== undefined; packet = heard.shift()) {
      if (packet.op === op) return packet;
    }
    throw new Error(`no packet ${op}`);
  });
}

type Client = Socket & { text: () => string };

function recorded(socket: Socket): Client {
  sockets.push(socket);
  socket.on('error', () => undefined);
  const pieces: Buffer[] = [];
  return Object.assign(socket, {
    text: () => {
      for (let piece = socket.read() as Buffer | null; piece !== null; piece = socket.read() as Buffer | null)
        pieces.push(piece);
      return Buffer.concat(pieces).toString();
    },
  });
}

async function client(): Promise<Client> {
  const socket = connect({ path, allowHalfOpen: true });
  await once(socket, 'connect');
  return recorded(socket);
}

/** A client whose connection to port 80 the guest has accepted. */
async function accepted(first = ''): Promise<{ socket: Client; ports: Partial<Packet> }> {
  const socket = await client();
  socket.write(`CONNECT 80\n${first}`);
  const request = await hears(OP.request);
  expect(request.targetPort).toBe(80);
  const ports = { sourcePort: 80, targetPort: request.sourcePort };
  rig.sends(OP.response, ports);
  return { socket, ports };
}

/** A program that listens for the guest; resolves with its end of the next connection. */
async function listening(port: number): Promise<{ server: Server; connected: Promise<Client> }> {
  const server = createServer({ allowHalfOpen: true });
  servers.push(server);
  server.listen(`${path}_${port}`);
  await once(server, 'listening');
  const connected = once(server, 'connection').then(([socket]) => recorded(socket as Socket));
  return { server, connected };
}

describe('a program that connects to the guest', () => {
  test('is told the port that it has, and then talks', async () => {
    const { socket, ports } = await accepted();
    await eventually(() => expect(socket.text()).toBe(`OK ${ports.targetPort}\n`));
    socket.write('question');
    expect(Buffer.from((await hears(OP.data)).payload).toString()).toBe('question');
    rig.sends(OP.data, { ...ports, payload: Buffer.from('answer') });
    await eventually(() => expect(socket.text()).toMatch(/answer$/));
  });

  test('may send what it has to say with the command', async () => {
    await accepted('at once');
    expect(Buffer.from((await hears(OP.data)).payload).toString()).toBe('at once');
  });

  test('may send the command byte by byte', async () => {
    const socket = await client();
    for (const each of 'connect  80\r\n') {
      socket.write(each);
      await sleep(2);
    }
    expect((await hears(OP.request)).targetPort).toBe(80);
  });

  test.each([
    'CONNECT\n',
    'CONNECT x\n',
    'CONNECT -1\n',
    'CONNECT 4294967296\n',
    'CONNECT 80 80\n',
    'HELLO 80\n',
    '\n',
    'x'.repeat(40),
  ])('%j is turned away', async (command) => {
    const socket = await client();
    socket.write(command);
    await once(socket.resume(), 'end');
    expect(rig.hears()).toEqual([]);
  });

  test('is turned away where nobody in the guest listens', async () => {
    const socket = await client();
    socket.write('CONNECT 80\n');
    const { sourcePort } = await hears(OP.request);
    rig.sends(OP.reset, { sourcePort: 80, targetPort: sourcePort });
    await once(socket.resume(), 'end');
    expect(socket.bytesRead).toBe(0);
  });

  test('is turned away where no driver is there', async () => {
    device.reset();
    const socket = await client();
    socket.write('CONNECT 80\n');
    await once(socket.resume(), 'end');
  });

  test('that goes without a word leaves nothing behind', async () => {
    const socket = await client();
    socket.write('CONN');
    socket.destroy();
    const { socket: next } = await accepted();
    await eventually(() => expect(next.text()).toMatch(/^OK /));
  });
});

describe('a program that the guest connects to', () => {
  test('gets the stream of its port', async () => {
    const { connected } = await listening(52);
    rig.sends(OP.request);
    await hears(OP.response);
    const socket = await connected;
    rig.sends(OP.data, { payload: Buffer.from('hello') });
    await eventually(() => expect(socket.text()).toBe('hello'));
  });

  test.each(['nobody listens', 'a file is there', 'the program was killed'])(
    'is none where %s',
    async (how) => {
      const at = `${path}_52`;
      if (how === 'a file is there') writeFileSync(at, '');
      else if (how === 'the program was killed') {
        const program =
          "require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 9))";
        spawnSync(process.execPath, ['-e', program, at]);
        expect(statSync(at).isSocket()).toBe(true);
      }
      rig.sends(OP.request);
      await hears(OP.reset);
      expect(device.connectionCount).toBe(0);
    },
  );
});

describe('a half of a stream', () => {
  test('that the program ends is ended for the guest, and the other one goes on', async () => {
    const { socket, ports } = await accepted();
    socket.end('last');
    expect(Buffer.from((await hears(OP.data)).payload).toString()).toBe('last');
    expect((await hears(OP.shutdown)).flags).toBe(SEND);
    rig.sends(OP.data, { ...ports, payload: Buffer.from('answer') });
    await eventually(() => expect(socket.text()).toMatch(/answer$/));
  });

  test('that the guest ends is ended for the program, and the other one goes on', async () => {
    const { socket, ports } = await accepted();
    rig.sends(OP.data, { ...ports, payload: Buffer.from('last') });
    rig.sends(OP.shutdown, { ...ports, flags: SEND });
    const ended = once(socket, 'end');
    await eventually(() => expect(socket.text()).toMatch(/last$/));
    await ended;
    socket.write('answer');
    expect(Buffer.from((await hears(OP.data)).payload).toString()).toBe('answer');
  });
});

describe('the end of a stream', () => {
  test('by the program is seen though the guest sends nothing', async () => {
    const { socket } = await accepted();
    await eventually(() => expect(socket.text()).toMatch(/^OK /));
    socket.destroy();
    expect((await hears(OP.shutdown)).flags).toBe(SEND);
    expect((await hears(OP.shutdown)).flags).toBe(BOTH);
  });

  test('by the program with data of the guest in its socket is a reset', async () => {
    const { socket, ports } = await accepted();
    await eventually(() => expect(socket.text()).toMatch(/^OK /));
    socket.pause();
    for (let i = 0; i < 4; i++) rig.sends(OP.data, { ...ports, payload: new Uint8Array(60 * 1024) });
    socket.destroy();
    await hears(OP.reset);
    expect(device.connectionCount).toBe(0);
  });

  test('by the guest comes after all that it has sent', async () => {
    const { socket, ports } = await accepted();
    await eventually(() => expect(socket.text()).toMatch(/^OK /));
    socket.pause();
    const payload = new Uint8Array(60 * 1024);
    for (let i = 0; i < 4; i++) rig.sends(OP.data, { ...ports, payload });
    rig.sends(OP.shutdown, { ...ports, flags: BOTH });
    await hears(OP.reset);
    let seen = 0;
    socket.on('data', (bytes: Buffer) => (seen += bytes.length)).resume();
    await once(socket, 'end');
    expect(seen).toBe(4 * payload.length);
  });

  test('by a reset of the guest is one for the program', async () => {
    const { socket, ports } = await accepted();
    rig.sends(OP.reset, ports);
    await once(socket.resume(), 'end');
    expect(device.connectionCount).toBe(0);
  });
});

describe('a side that does not read', () => {
  test('a guest makes the program wait', async () => {
    rig.bufferSize = 1000;
    const { socket } = await accepted();
    let written = 0;
    const flood = setInterval(() => {
      if (socket.writableNeedDrain) return;
      socket.write(new Uint8Array(MIB));
      written += MIB;
    }, 1);
    await hears(OP.creditRequest);
    await sleep(300);
    clearInterval(flood);
    expect(socket.writableLength).toBeGreaterThan(0);
    expect(written).toBeLessThan(8 * MIB);
  });

  test('a program makes the guest wait, and gets all of it in the end', async () => {
    const { socket, ports } = await accepted();
    await eventually(() => expect(socket.text()).toMatch(/^OK /));
    socket.pause();
    const payload = new Uint8Array(32 * 1024);
    let sent = 0;
    let forwarded = 0;
    const send = (): void => {
      for (const packet of rig.hears()) forwarded = packet.forwarded;
      while (sent - forwarded + payload.length <= 256 * 1024) {
        payload.fill(sent / payload.length);
        rig.sends(OP.data, { ...ports, payload });
        sent += payload.length;
      }
    };
    for (let i = 0; i < 20; i++) {
      send();
      await sleep(5);
    }
    const stalledAt = sent;
    expect(stalledAt).toBeLessThan(2 * MIB);
    let seen = 0;
    let wrong = 0;
    socket.on('data', (bytes: Buffer) => {
      for (const byte of bytes) if (byte !== (Math.floor(seen++ / payload.length) & 0xff)) wrong++;
    });
    socket.resume();
    await eventually(() => {
      if (sent < 4 * stalledAt) send();
      expect(seen).toBeGreaterThanOrEqual(4 * stalledAt);
    });
    expect(wrong).toBe(0);
  });
});

describe('the socket', () => {
  test('is for its owner alone, and goes with the VM', async () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    device.reset();
    await host.close();
    expect(existsSync(path)).toBe(false);
    host = await VsockHost.listen(path);
  });

  test('of another VM is not taken', async () => {
    await expect(VsockHost.listen(path)).rejects.toMatchObject({ code: 'EADDRINUSE', path });
  });

  test('leaves room for the numbers of ports in its path', async () => {
    const long = join(directory, 'x'.repeat(97 - directory.length - 1));
    await expect(VsockHost.listen(long)).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
    const fits = await VsockHost.listen(long.slice(0, -1));
    await fits.close();
  });

  test('is closed with the programs that have said nothing yet', async () => {
    const socket = await client();
    await sleep(20);
    await host.close();
    await once(socket.resume(), 'end');
    host = await VsockHost.listen(path);
  });

  test('is closed after the last data of a guest that has gone', async () => {
    const { socket, ports } = await accepted();
    rig.sends(OP.data, { ...ports, payload: Buffer.from('last words') });
    device.reset();
    device.close();
    const ended = once(socket, 'end');
    await host.close();
    expect(socket.text()).toMatch(/last words$/);
    await ended;
    host = await VsockHost.listen(path);
  });
});
