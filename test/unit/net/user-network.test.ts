import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createConnection, createServer, type AddressInfo, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import type { FramePort } from '../../../src/kvm/frame-port.ts';
import { parseForward } from '../../../src/net/forward.ts';
import { featuresOf, findPasst } from '../../../src/net/passt/program.ts';
import { openUserNetwork, type UserNetworkOptions } from '../../../src/net/user-network.ts';
import { udpFrame } from '../../../src/net/vmnet/packet.ts';
import { bundleScript } from '../../support/bundle-script.ts';
import { dhcpAsk, type DhcpReply } from '../../support/net/dhcp-client.ts';
import { Station } from '../../support/net/station.ts';
import { readSyn, synFrame } from '../../support/net/tcp-frame.ts';

const havePasst = (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(`${folder}/passt`));
if (!havePasst) console.log('passt is not installed: user-mode networking is not tested');

const MAC = '52:54:00:00:00:01';
const LOOPBACK = 0x7f000001;
const LIMIT_MS = 10_000;

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

async function open(options: Partial<UserNetworkOptions> = {}) {
  const lines: string[] = [];
  const { backend, forwards } = await openUserNetwork({
    name: 'user0',
    log: (line) => lines.push(line),
    ...options,
  });
  closing.push(() => backend.close());
  const port = backend.ports[0]!;
  return { backend, forwards, lines, port, station: new Station(port, MAC) };
}

/** Processes that are children of this one. */
function passts(parent: number = process.pid, program = 'passt'): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const [, name, rest] = /^\d+ \((.*)\) (.*)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
        return name?.startsWith(program) === true && Number(rest?.split(' ')[1]) === parent;
      } catch {
        return false;
      }
    });
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + LIMIT_MS;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${LIMIT_MS} ms: ${what}`);
    await sleep(10);
  }
}

async function loopbackServer(): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => socket.destroy());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closing.push(async () => {
    server.close();
    await once(server, 'close');
  });
  return { server, port: (server.address() as AddressInfo).port };
}

/** The address that passt has for its guest, and what it says to be there. */
const lease = (station: Station): Promise<DhcpReply> => dhcpAsk(station, 1);

/** Has the guest begin a connection; resolves to whether somebody at the other end has taken it. */
async function guestConnects(
  station: Station,
  reply: DhcpReply,
  destination: number,
  server: Server,
  port: number,
) {
  const accepted = once(server, 'connection').then(() => true);
  station.send(
    synFrame({
      sourceMac: station.mac,
      destinationMac: reply.from,
      source: reply.address,
      destination,
      sourcePort: 40_000,
      destinationPort: port,
    }),
  );
  return Promise.race([accepted, sleep(700, false)]);
}

describe.runIf(havePasst)('user-mode networking over passt', () => {
  it('gives the guest an address, a gateway and the largest packet by DHCP', async () => {
    const { station, backend } = await open();
    expect(backend.link).toBe(true);
    expect(backend.mtu).toBe(65520);
    const reply = await lease(station);
    expect(reply.type).toBe(2);
    expect(reply.address).not.toBe(0);
    expect(reply.options.get(3)).toHaveLength(4);
    expect(reply.options.get(26)?.readUInt16BE(0)).toBe(65520);
  });

  it('leads a chosen port of the host to the guest, and says which', async () => {
    const { station, forwards, lines } = await open({ forwards: [parseForward('0:80')] });
    await lease(station);
    const [forward] = forwards;
    expect(forward?.host).toBeGreaterThan(0);
    expect(lines).toEqual([`user0: TCP port 127.0.0.1:${forward!.host} leads to port 80 of the guest`]);
    const client = createConnection(forward!.host, '127.0.0.1');
    client.on('error', () => undefined);
    onTestFinished(() => void client.destroy());
    expect((await station.next(readSyn)).destinationPort).toBe(80);
  });

  it('leads UDP ports and ranges of the host to the guest', async () => {
    const free = createSocket('udp4');
    free.bind(0, '127.0.0.1');
    await once(free, 'listening');
    const { port } = free.address();
    free.close();
    const { station } = await open({ forwards: [parseForward(`${port}-${port + 1}:7000-7001/udp`)] });
    const { address } = await lease(station);
    const client = createSocket('udp4');
    onTestFinished(() => void client.close());
    client.send('hello', port + 1, '127.0.0.1');
    const destination = await station.next((frame) =>
      frame.subarray(-5).toString() === 'hello'
        ? { address: frame.readUInt32BE(30), port: frame.readUInt16BE(36) }
        : undefined,
    );
    expect(destination).toEqual({ address, port: 7001 });
  });

  it('names a port that is in use, and who has it, in one line', async () => {
    const { port } = await loopbackServer();
    await expect(open({ forwards: [parseForward(`${port}:80`)] })).rejects.toMatchObject({
      code: 'EADDRINUSE',
      message: `TCP port 127.0.0.1:${port} is in use by this process itself (${process.pid})`,
    });
    expect(passts()).toEqual([]);
  });

  it('refuses an address that the host does not have', async () => {
    await expect(open({ forwards: [parseForward('203.0.113.77:8080:80')] })).rejects.toMatchObject({
      code: 'EADDRNOTAVAIL',
    });
  });

  it('comes back with its forwards when passt has died', async () => {
    const { station, backend, lines, forwards } = await open({ forwards: [parseForward('0:80')] });
    const changes: boolean[] = [];
    backend.onLink = (up) => changes.push(up);
    const [pid] = passts();
    process.kill(pid!, 'SIGKILL');
    await until(() => changes.length === 2, 'link down and up');
    expect(changes).toEqual([false, true]);
    await until(() => lines.some((line) => line.includes('passt ended')), 'a line about its end');
    expect(lines.slice(1).sort()).toEqual(
      [
        'user0: passt ended: killed by SIGKILL',
        'user0: the link is down: its peer has gone',
        'user0: the link is up again',
      ].map((line) => expect.stringContaining(line) as string),
    );
    expect(passts()).not.toContain(pid);
    await lease(station);
    const client = createConnection(forwards[0]!.host, '127.0.0.1');
    client.on('error', () => undefined);
    onTestFinished(() => void client.destroy());
    expect((await station.next(readSyn)).destinationPort).toBe(80);
  });

  it('has passt run by a keeper, and again when it has ended', async () => {
    const { backend, lines, station } = await open({ keeper: true });
    const [keeper] = passts(process.pid, 'tsvm-keeper');
    expect(passts()).toEqual([]);
    const [pid] = passts(keeper);
    await lease(station);
    process.kill(pid!, 'SIGKILL');
    await until(() => lines.some((line) => line.includes('up again')), 'passt is back');
    expect(lines).toContainEqual(expect.stringContaining('passt ended: killed by SIGKILL'));
    expect(passts(keeper)).toHaveLength(1);
    expect(passts(keeper)).not.toContain(pid);
    await lease(station);
    await backend.close();
    await until(() => passts(process.pid, 'tsvm-keeper').length === 0, 'the keeper has ended');
    expect(passts(keeper)).toEqual([]);
  });

  it('ends passt with the back end', async () => {
    const { backend, lines } = await open();
    expect(passts()).toHaveLength(1);
    await backend.close();
    expect(passts()).toEqual([]);
    expect(lines).toEqual([]);
  });

  it('leaves no passt behind when its process is killed', async () => {
    const script = await bundleScript(`
      import { openUserNetwork } from './src/net/user-network.ts';
      await openUserNetwork({ name: 'user0', log: () => undefined });
      console.log('up');
      setInterval(() => undefined, 1000);
    `);
    const owner = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(owner.stdout, 'data');
    const [pid] = passts(owner.pid);
    expect(pid).toBeDefined();
    owner.kill('SIGKILL');
    await until(() => !existsSync(`/proc/${pid}`), 'passt has ended');
  });
});

describe.runIf(havePasst)("the host's loopback", () => {
  it('is not reached by the address of the gateway', async () => {
    const { station } = await open();
    const { server, port } = await loopbackServer();
    const reply = await lease(station);
    const gateway = reply.options.get(3)!.readUInt32BE(0);
    expect(await guestConnects(station, reply, gateway, server, port)).toBe(false);
  });

  it('is reached by the address of the gateway where that is allowed', async () => {
    const { station } = await open({ hostAccess: true });
    const { server, port } = await loopbackServer();
    const reply = await lease(station);
    const gateway = reply.options.get(3)!.readUInt32BE(0);
    expect(await guestConnects(station, reply, gateway, server, port)).toBe(true);
  });

  it.each([
    ['127.0.0.1', LOOPBACK],
    ['127.9.9.9', 0x7f090909],
    ['0.0.0.0', 0],
  ])('is not reached by a guest that names %s itself, over TCP', async (_, destination) => {
    const { station, port: frames } = await open();
    const { server, port } = await loopbackServer();
    const reply = await lease(station);
    expect(await guestConnects(station, reply, destination, server, port)).toBe(false);
    expect(frames.counters.refused).toBe(1);
  });

  it('is not reached by a guest that names it itself, over UDP', async () => {
    const { station } = await open();
    const listener = createSocket('udp4');
    listener.bind(0, '127.0.0.1');
    await once(listener, 'listening');
    onTestFinished(() => void listener.close());
    const heard = once(listener, 'message').then(() => true);
    const reply = await lease(station);
    const datagram = {
      sourceMac: station.mac,
      destinationMac: reply.from,
      source: reply.address,
      destination: LOOPBACK,
      sourcePort: 5000,
      destinationPort: listener.address().port,
      data: Buffer.from('hello'),
    };
    expect(station.send(udpFrame(datagram))).toBe(false);
    expect(await Promise.race([heard, sleep(500, false)])).toBe(false);
  });

  it('is in frames of no length and family that go to passt', async () => {
    const { port, station } = await open();
    for (const [frame, refused] of loopbackFrames()) expect(refusedBy(port, station, frame)).toBe(refused);
  });
});

/** Frames with what is to become of them. */
function loopbackFrames(): (readonly [Buffer, boolean])[] {
  const ip4 = (destination: string, length = 60): Buffer => {
    const frame = Buffer.alloc(length);
    frame.writeUInt16BE(0x0800, 12);
    frame.set(destination.split('.').map(Number), 30);
    return frame;
  };
  const ip6 = (destination: string, length = 60): Buffer => {
    const frame = Buffer.alloc(length);
    frame.writeUInt16BE(0x86dd, 12);
    frame.set(Buffer.from(destination, 'hex'), 38);
    return frame;
  };
  return [
    [ip4('127.0.0.1'), true],
    [ip4('127.255.255.255', 34), true],
    [ip4('0.0.0.0'), true],
    [ip4('128.0.0.1'), false],
    [ip4('1.0.0.1'), false],
    [ip6('00000000000000000000000000000001'), true],
    [ip6('00000000000000000000000000000000', 54), true],
    // ::ffff:127.0.0.1
    [ip6('00000000000000000000ffff7f000001'), true],
    // 64:ff9b::/96, of NAT64
    [ip6('0064ff9b0000000000000000c0000201'), false],
    [ip6('fd000000000000000000000000000001'), false],
  ];
}

function refusedBy(port: FramePort, station: Station, frame: Buffer): boolean {
  const before = port.counters.refused;
  station.send(frame);
  return port.counters.refused > before;
}

describe('findPasst', () => {
  it('names the package where there is no passt', async () => {
    await expect(findPasst('/nonexistent:relative')).rejects.toMatchObject({
      code: 'ENOENT',
      message: 'user-mode networking needs passt, which is not on this host',
      hint: expect.stringContaining('install the package passt') as string,
    });
  });

  it.runIf(havePasst)('reads what this passt can do from its help text', async () => {
    expect((await findPasst()).noMapGateway).toBe(true);
  });

  it('knows the options of versions apart', () => {
    const old =
      '  -e, --stderr\tLog to stderr too\n  -F, --fd FD\tUse FD\n  --no-map-gw\tDo not\n  --dns-forward ADDR\n';
    const newer =
      '  -F, --fd FD\tUse FD\n  --no-map-gw\n  --map-host-loopback ADDR\n  --dns-forward ADDR\n  --dns-host ADDR\n';
    expect(featuresOf(old)).toEqual({
      stderrOption: true,
      noMapGateway: true,
      mapHostLoopback: false,
      dnsHost: false,
    });
    expect(featuresOf(newer)).toEqual({
      stderrOption: false,
      noMapGateway: true,
      mapHostLoopback: true,
      dnsHost: true,
    });
    expect(() => featuresOf('  --socket PATH\n')).toThrow('too old');
  });
});
