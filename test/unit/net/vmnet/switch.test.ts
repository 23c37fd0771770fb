import { existsSync, writeSync } from 'node:fs';
import { createConnection } from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { OFFLOAD } from '../../../../src/kvm/frame-port.ts';
import { connectUnix } from '../../../../src/kvm/unix-socket.ts';
import { TestNetwork, type Guest } from '../../../support/net/test-network.ts';

const BROADCAST = Buffer.from('ffffffffffff', 'hex');
const TYPE = 0x88b5;
const QUIET_MS = 100;

const networks: TestNetwork[] = [];
afterEach(async () => {
  for (const network of networks.splice(0)) await network.close();
});

async function lan(count: number): Promise<{ network: TestNetwork; guests: Guest[] }> {
  const network = new TestNetwork();
  networks.push(network);
  const guests = [];
  for (let i = 1; i <= count; i++) guests.push(await network.join(i));
  return { network, guests };
}

/** A frame of a type for experiments (IEEE 802). */
function frameOf(to: Uint8Array, from: Uint8Array, text: string, length = 60): Buffer {
  const frame = Buffer.alloc(length);
  frame.set(to, 0);
  frame.set(from, 6);
  frame.writeUInt16BE(TYPE, 12);
  frame.write(text, 14);
  return frame;
}

const textOf = (frame: Buffer): string | undefined =>
  frame.readUInt16BE(12) === TYPE ? frame.toString('latin1', 14).replace(/\0+$/, '') : undefined;

const say = (from: Guest, to: Uint8Array, text: string): boolean =>
  from.station.send(frameOf(to, from.station.mac, text));

const hears = (guest: Guest): Promise<string> => guest.station.next(textOf);

const isQuiet = async (guest: Guest): Promise<boolean> =>
  (await guest.station.maybe(textOf, QUIET_MS)) === undefined;

describe('a switch', () => {
  it('passes a broadcast on to all but its sender', async () => {
    const { guests } = await lan(3);
    say(guests[0]!, BROADCAST, 'all');
    expect(await hears(guests[1]!)).toBe('all');
    expect(await hears(guests[2]!)).toBe('all');
    expect(await isQuiet(guests[0]!)).toBe(true);
  });

  it('passes a frame to a member on to that one alone, also before it has said anything', async () => {
    const { guests } = await lan(3);
    say(guests[0]!, guests[1]!.station.mac, 'you');
    expect(await hears(guests[1]!)).toBe('you');
    expect(await isQuiet(guests[2]!)).toBe(true);
  });

  it('passes a frame to somebody unknown on to all, until it has heard from there', async () => {
    const { guests } = await lan(3);
    const stranger = Buffer.from('52540000aaaa', 'hex');
    say(guests[0]!, stranger, 'who');
    expect(await hears(guests[1]!)).toBe('who');
    expect(await hears(guests[2]!)).toBe('who');
    guests[2]!.station.send(frameOf(guests[0]!.station.mac, stranger, 'here'));
    expect(await hears(guests[0]!)).toBe('here');
    say(guests[0]!, stranger, 'you');
    expect(await hears(guests[2]!)).toBe('you');
    expect(await isQuiet(guests[1]!)).toBe(true);
  });

  it('drops a frame that says to come from another member, or from the switch itself', async () => {
    const { guests } = await lan(3);
    guests[2]!.station.send(frameOf(guests[0]!.station.mac, guests[1]!.station.mac, 'forged'));
    expect(await isQuiet(guests[0]!)).toBe(true);
    say(guests[0]!, guests[1]!.station.mac, 'still yours');
    expect(await hears(guests[1]!)).toBe('still yours');
  });

  it('lets members leave and come back', async () => {
    const { network, guests } = await lan(2);
    const [one, two] = guests;
    await two!.backend.close();
    say(one!, BROADCAST, 'nobody');
    const again = await network.join(2);
    say(one!, again.station.mac, 'back');
    expect(await hears(again)).toBe('back');
    expect(one!.lines).toEqual([]);
  });

  it('passes 64 KiB on that are to be cut into segments, with the header that says so', async () => {
    const { guests } = await lan(2);
    const [one, two] = guests;
    const port = one!.backend.ports[0]!;
    const memory = Buffer.alloc(12 + 54 + 60_000, 'x');
    // VIRTIO 1.2, 5.1.6: NEEDS_CSUM, TCPv4, 54 bytes of headers, segments of 1448 bytes, checksum at 34 + 16
    memory.set([1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0], 0);
    memory.set(two!.station.mac, 12);
    memory.set(one!.station.mac, 18);
    memory.writeUInt16BE(0x0800, 24);
    memory.set([0x45, 0, ...u16(40 + 60_000), 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], 26);
    memory.set([0, 80, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 255, 255, 0, 0, 0, 0], 46);
    port.configure({ header: true, hostOffloads: OFFLOAD.checksum | OFFLOAD.tso4 });
    port.tx.add(port.register(memory), 0, memory.length);
    port.tx.end();
    expect(port.send()).toBe(1);
    expect(port.counters.refused).toBe(0);
    const frame = await two!.station.next((each) => (each.length > 2000 ? each : undefined));
    expect(frame.equals(memory.subarray(12))).toBe(true);
    expect(two!.station.headers.at(-1)?.subarray(0, 10).equals(memory.subarray(0, 10))).toBe(true);
  });

  it('is not held up by a member that takes nothing, and drops what is for that one', async () => {
    const { guests } = await lan(3);
    const [one, two, three] = guests;
    three!.backend.ports[0]!.listen(false);
    const rounds = 4000;
    for (let i = 0; i < rounds; i++) {
      while (!one!.station.send(frameOf(BROADCAST, one!.station.mac, `${i}`, 1514))) await sleep(1);
      if (i % 100 === 99) {
        for (let text = await hears(two!); text !== `${i}`; text = await hears(two!));
      }
    }
    three!.backend.ports[0]!.listen(true);
    let heard = 0;
    while ((await three!.station.maybe(textOf, QUIET_MS)) !== undefined) heard++;
    expect(heard).toBeGreaterThan(0);
    expect(heard).toBeLessThan(rounds);
    say(one!, three!.station.mac, 'again');
    expect(await hears(three!)).toBe('again');
  });

  it('loses nothing of a transfer to a member that takes it more slowly than it comes', async () => {
    const { guests } = await lan(2);
    const [one, two] = guests;
    const rounds = 20_000;
    let sent = 0;
    const sending = (async () => {
      while (sent < rounds) {
        if (say(one!, two!.station.mac, `${sent}`)) sent++;
        else await sleep(1);
        if (sent % 500 === 0) await sleep(0);
      }
    })();
    for (let i = 0; i < rounds; i++) expect(await hears(two!)).toBe(`${i}`);
    await sending;
  });
});

const u16 = (value: number): [number, number] => [value >> 8, value & 0xff];

describe('a member', () => {
  it('is not let in with the MAC address of another one', async () => {
    const { network } = await lan(1);
    await expect(network.join(1)).rejects.toThrow(
      'the network lan does not take the VM: a VM there has the MAC address 52:54:00:00:00:01',
    );
  });

  it('is not let in with the name of another one, which is free when that one has left', async () => {
    const { network } = await lan(0);
    const first = await network.join(1, { name: 'web' });
    await expect(network.join(2, { name: 'web' })).rejects.toThrow('a VM there is called web');
    await first.backend.close();
    await sleep(QUIET_MS);
    await network.join(2, { name: 'web' });
  });

  it.each([
    ['nothing that makes sense', 'GET / HTTP/1.0\r\n\r\n'],
    ['another version', JSON.stringify({ tsvmVmnet: 99, mac: '52:54:00:00:00:01' })],
    ['no MAC address', JSON.stringify({ tsvmVmnet: 1, mac: '52:54:00:00:00' })],
    ['a name that is none', JSON.stringify({ tsvmVmnet: 1, mac: '52:54:00:00:00:01', name: 'a.b' })],
  ])('is not let in if it says %s', async (_, text) => {
    const { network } = await lan(1);
    const socket = createConnection(network.place.socket);
    socket.on('error', () => undefined);
    onTestFinished(() => void socket.destroy());
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.length);
    socket.write(Buffer.concat([length, Buffer.from(text)]));
    let answer = '';
    socket.on('data', (data: Buffer) => (answer += data.toString('latin1')));
    await once(socket, 'close');
    expect(answer).toContain('"error":"');
  });

  it('that sends a frame of an impossible length is cut off, and no other one', async () => {
    const { network, guests } = await lan(2);
    const socket = connectUnix(network.place.socket);
    writeSync(socket, Buffer.from('ffffffff', 'hex'));
    await sleep(QUIET_MS);
    say(guests[0]!, BROADCAST, 'on');
    expect(await hears(guests[1]!)).toBe('on');
    expect(() => {
      for (let i = 0; i < 100; i++) writeSync(socket, Buffer.alloc(1000));
    }).toThrow('EPIPE');
  });
});

describe('the process of a switch', () => {
  it('has a socket of its owner alone, and ends some time after the last member has left', async () => {
    const network = new TestNetwork(50);
    networks.push(network);
    const guest = await network.join(1);
    await sleep(QUIET_MS);
    expect(existsSync(network.place.socket)).toBe(true);
    await guest.backend.close();
    expect(await network.ended).toBe(true);
    expect(existsSync(network.place.socket)).toBe(false);
  });

  it('is the only one of its network', async () => {
    const network = new TestNetwork();
    networks.push(network);
    const { serveVmnet } = await import('../../../../src/net/vmnet/serve.ts');
    const { signal } = new AbortController();
    expect(await serveVmnet(network.place, { log: () => undefined, signal })).toBe(false);
    await network.join(1);
  });

  it('writes down what happens', async () => {
    const { network } = await lan(1);
    expect(network.lines).toEqual(['serving', '52:54:00:00:00:01 has come']);
  });
});
