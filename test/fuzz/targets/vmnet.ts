import { Leases, subnetOf } from '../../../src/net/vmnet/leases.ts';
import { Names } from '../../../src/net/vmnet/names.ts';
import { switchMac } from '../../../src/net/vmnet/network.ts';
import { readUdp, udpFrame } from '../../../src/net/vmnet/packet.ts';
import { Services } from '../../../src/net/vmnet/services.ts';
import { dhcpFrame, readReply } from '../../support/net/dhcp-client.ts';
import { dnsQuery } from '../../support/net/dns-client.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

const NETWORK = 'fuzz';
const SUBNET = subnetOf(NETWORK);
const MAC = switchMac(NETWORK);
const PORTS = 4;
const FRAMES = 24;
/** What one frame is answered with, at most. */
const LONGEST_ANSWER = 1500;

const ACK = 5;
const NAMES = ['one', 'two.fuzz.internal', 'fuzz.internal', 'example.org', '', 'nobody', 'x'.repeat(63)];

function address(random: Random): number {
  return random.pick([
    0,
    SUBNET.server,
    SUBNET.base,
    SUBNET.broadcast,
    SUBNET.base + random.below(8192),
    random.word(),
  ]);
}

function bytesOf(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

function dhcp(random: Random, mac: Buffer): Buffer {
  const options: (readonly [number, Uint8Array | string])[] = [];
  if (!random.oneIn(3)) options.push([50, bytesOf(address(random))]);
  if (random.oneIn(2)) options.push([54, bytesOf(random.oneIn(4) ? address(random) : SUBNET.server)]);
  if (random.oneIn(2)) options.push([12, random.pick(['one', 'web.example', 'ä', '-', 'x'.repeat(200)])]);
  if (random.oneIn(4)) options.push([81, random.fill(new Uint8Array(random.below(40)))]);
  if (random.oneIn(4)) options.push([random.below(256), random.fill(new Uint8Array(random.below(255)))]);
  return dhcpFrame(mac, random.oneIn(8) ? random.below(256) : random.between(1, 8), {
    clientAddress: random.oneIn(3) ? address(random) : 0,
    relay: random.oneIn(16) ? address(random) : 0,
    broadcast: random.oneIn(2),
    options,
  });
}

function dns(random: Random, mac: Buffer): Buffer {
  const multicast = random.oneIn(3);
  const query = dnsQuery(random.pick(NAMES), random.pick([1, 12, 28, 255, random.below(256)]));
  const edns = Buffer.from('0000291000000000000000', 'hex');
  if (random.oneIn(3)) query.writeUInt16BE(1, 10);
  return udpFrame({
    sourceMac: mac,
    destinationMac: multicast ? Buffer.from('01005e0000fc', 'hex') : MAC,
    source: address(random),
    destination: multicast ? 0xe00000fc : SUBNET.server,
    sourcePort: random.below(65536),
    destinationPort: multicast ? 5355 : 53,
    data: random.oneIn(3) ? Buffer.concat([query, edns]) : query,
  });
}

function arpOrPing(random: Random, mac: Buffer): Buffer {
  const frame = Buffer.alloc(random.between(42, 120));
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  if (random.oneIn(2)) {
    frame.set([8, 6, 0, 1, 8, 0, 6, 4, 0, 1], 12);
    frame.writeUInt32BE(SUBNET.server, 38);
  } else {
    frame.set([8, 0, 0x45, 0, 0, frame.length - 14, 0, 0, 0, 0, 64, 1], 12);
    frame.writeUInt32BE(SUBNET.server, 30);
    frame[34] = 8;
  }
  return frame;
}

/** Now and then a few bytes are others, or some are missing or too many. */
function damage(random: Random, frame: Buffer): Buffer {
  if (!random.oneIn(3)) return frame;
  for (let i = random.below(4); i >= 0; i--) frame[random.below(frame.length)] = random.word();
  if (random.oneIn(3)) return frame.subarray(0, random.below(frame.length + 1));
  if (random.oneIn(3)) return Buffer.concat([frame, random.fill(new Uint8Array(random.below(200)))]);
  return frame;
}

/** Messages of guests to the services of a network: each is answered or not, within bounds, and nothing is thrown. */
export const vmnetTarget: FuzzTarget = {
  name: 'vmnet',
  run: (random) => {
    const leases = new Leases(SUBNET, 3600);
    const names = new Names(leases);
    const macs = Array.from({ length: PORTS }, (_, port) => Buffer.from([0x52, 0x54, 0, 0, 0, port]));
    for (const [port, mac] of macs.entries()) {
      const text = Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
      names.join({ port, mac: text, name: port === 0 ? 'one' : undefined });
    }
    /** who has said to have what */
    const granted = new Map<number, string>();
    let answers = 0;
    let now = 0;
    const services = new Services({
      mac: MAC,
      leases,
      names,
      domain: `${NETWORK}.internal`,
      askWorld: () => undefined,
      send: (port, frame) => {
        answers++;
        if (port < 0 || port >= PORTS) throw new Error(`an answer to port ${port}`);
        if (frame.length > LONGEST_ANSWER) throw new Error(`an answer of ${frame.length} bytes`);
        const reply = readUdp(frame)?.sourcePort === 67 ? readReply(frame) : undefined;
        if (reply?.type !== ACK || reply.address === 0) return;
        const host = reply.address - SUBNET.base;
        if (host < 2 || reply.address >= SUBNET.broadcast) throw new Error(`an address outside: ${host}`);
        const lease = leases.at(reply.address);
        const before = granted.get(reply.address);
        if (lease === undefined) throw new Error('an address without a lease');
        if (before !== undefined && before !== lease.mac && leases.of(before)?.address === reply.address) {
          throw new Error('an address for two');
        }
        granted.set(reply.address, lease.mac);
      },
      now: () => now,
    });
    for (let i = 0; i < FRAMES; i++) {
      const port = random.below(PORTS);
      const mac = random.oneIn(4) ? Buffer.from([2, 0, 0, 0, random.below(4), random.word()]) : macs[port]!;
      const make = random.pick([dhcp, dhcp, dns, arpOrPing]);
      now += random.oneIn(8) ? random.below(10_000) : 0;
      const before = answers;
      services.receive(damage(random, make(random, mac)), port);
      if (answers > before + 1) throw new Error('more than one answer to a frame');
    }
    if (leases.size > FRAMES) throw new Error('more leases than frames');
  },
};
