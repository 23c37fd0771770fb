import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { subnetOf } from '../../../../src/net/vmnet/leases.ts';
import { switchMac } from '../../../../src/net/vmnet/network.ts';
import { answerArp, readUdp, udpFrame } from '../../../../src/net/vmnet/packet.ts';
import { dhcpAsk, dhcpFrame, readReply, type DhcpFields } from '../../../support/net/dhcp-client.ts';
import { dnsQuery, readDnsAnswer, type DnsAnswer } from '../../../support/net/dns-client.ts';
import type { Station } from '../../../support/net/station.ts';
import { TestNetwork, type Guest } from '../../../support/net/test-network.ts';

const DISCOVER = 1;
const OFFER = 2;
const REQUEST = 3;
const DECLINE = 4;
const ACK = 5;
const NAK = 6;
const RELEASE = 7;
const INFORM = 8;
const QUIET_MS = 100;
const A = 1;
const PTR = 12;
const AAAA = 28;
const SERVER = subnetOf('lan').server;

let network: TestNetwork;
afterEach(() => network.close());

async function lan(...members: { readonly name?: string; readonly uplink?: boolean }[]): Promise<Guest[]> {
  network = new TestNetwork();
  const guests = [];
  for (const [i, member] of members.entries()) guests.push(await network.join(i + 1, member));
  return guests;
}

const bytesOf = (address: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(address);
  return bytes;
};

const requested = (address: number): readonly [number, Buffer] => [50, bytesOf(address)];

/** Takes an address, as a guest does at its start. */
async function lease(station: Station, hostName?: string) {
  const offer = await dhcpAsk(station, DISCOVER);
  const options: DhcpFields['options'] = [
    requested(offer.address),
    [54, bytesOf(SERVER)],
    ...(hostName === undefined ? [] : [[12, hostName] as const]),
  ];
  return dhcpAsk(station, REQUEST, { options });
}

async function silent(station: Station, type: number, fields: DhcpFields): Promise<void> {
  station.send(dhcpFrame(station.mac, type, fields));
  expect(await station.maybe(readReply, QUIET_MS)).toBeUndefined();
}

describe('DHCP on a network', () => {
  it('gives an address of the network, its resolver and its domain, and no router', async () => {
    const [one] = await lan({});
    const offer = await dhcpAsk(one!.station, DISCOVER);
    expect(offer.type).toBe(OFFER);
    const ack = await lease(one!.station);
    expect(ack).toMatchObject({ type: ACK, address: offer.address, server: SERVER });
    const { base, mask } = subnetOf('lan');
    expect((ack.address & mask) >>> 0).toBe(base);
    expect(ack.options.get(1)?.readUInt32BE(0)).toBe(mask);
    expect(ack.options.get(6)?.readUInt32BE(0)).toBe(SERVER);
    expect(ack.options.get(15)?.toString()).toBe('lan.internal');
    expect(ack.options.get(119)?.toString('latin1')).toBe('\x03lan\x08internal\0');
    expect(ack.options.get(51)?.readUInt32BE(0)).toBe(12 * 3600);
    expect(ack.options.has(3)).toBe(false);
    expect(ack.from.equals(switchMac('lan'))).toBe(true);
  });

  it('gives each station another address, and each its own one again', async () => {
    const guests = await lan({}, {}, {});
    const first = await Promise.all(guests.map(({ station }) => lease(station)));
    expect(new Set(first.map(({ address }) => address)).size).toBe(3);
    const again = await Promise.all(guests.map(({ station }) => lease(station)));
    expect(again.map(({ address }) => address)).toEqual(first.map(({ address }) => address));
  });

  it('gives a station the same address after the switch has started anew', async () => {
    const [before] = await lan({});
    const { address } = await lease(before!.station);
    await network.close();
    const [after] = await lan({});
    expect((await dhcpAsk(after!.station, DISCOVER)).address).toBe(address);
  });

  it('tells a station its name, where the VM has been given one', async () => {
    const [one, two] = await lan({ name: 'web' }, {});
    expect((await lease(one!.station)).options.get(12)?.toString()).toBe('web');
    expect((await lease(two!.station)).options.has(12)).toBe(false);
  });

  it('takes back a station that comes with its address, and renews a lease', async () => {
    const [one] = await lan({});
    const { address } = await lease(one!.station);
    const rebooted = await dhcpAsk(one!.station, REQUEST, { options: [requested(address)] });
    expect(rebooted).toMatchObject({ type: ACK, address });
    const renewed = await dhcpAsk(one!.station, REQUEST, { clientAddress: address });
    expect(renewed).toMatchObject({ type: ACK, address });
  });

  it.each([
    ['of another network', 0xc0a80001],
    ['of the switch', SERVER],
    ['of the broadcast', subnetOf('lan').broadcast],
  ])('refuses an address %s', async (_, address) => {
    const [one] = await lan({});
    const answer = await dhcpAsk(one!.station, REQUEST, { options: [requested(address)] });
    expect(answer).toMatchObject({ type: NAK, address: 0 });
  });

  it('refuses the address of another station', async () => {
    const [one, two] = await lan({}, {});
    const { address } = await lease(one!.station);
    const answer = await dhcpAsk(two!.station, REQUEST, { options: [requested(address)] });
    expect(answer.type).toBe(NAK);
  });

  it('gives another address where a station has found its one in use', async () => {
    const [one] = await lan({});
    const { address } = await lease(one!.station);
    await silent(one!.station, DECLINE, { options: [requested(address)] });
    expect((await lease(one!.station)).address).not.toBe(address);
  });

  it('keeps a released address for its station', async () => {
    const [one] = await lan({});
    const { address } = await lease(one!.station);
    await silent(one!.station, RELEASE, { clientAddress: address });
    expect((await lease(one!.station)).address).toBe(address);
  });

  it('tells one that has an address of the network', async () => {
    const [one] = await lan({});
    const answer = await dhcpAsk(one!.station, INFORM, { clientAddress: SERVER + 100 });
    expect(answer).toMatchObject({ type: ACK, address: 0 });
    expect(answer.options.has(51)).toBe(false);
    expect(answer.options.get(6)?.readUInt32BE(0)).toBe(SERVER);
  });

  it('says nothing to a request that is for another server, or comes through a relay', async () => {
    const [one] = await lan({});
    await silent(one!.station, REQUEST, { options: [requested(SERVER + 50), [54, bytesOf(SERVER + 9)]] });
    await silent(one!.station, DISCOVER, { relay: SERVER + 9 });
  });

  it('gives one port no more than 32 addresses, and others still theirs', async () => {
    const [one, two] = await lan({}, {});
    let given = 0;
    for (let i = 0; i < 40; i++) {
      const mac = Buffer.from([2, 0, 0, 0, 1, i]);
      one!.station.send(dhcpFrame(mac, DISCOVER, { broadcast: true }));
      if ((await one!.station.maybe(readReply, 50)) !== undefined) given++;
    }
    expect(given).toBe(32);
    expect((await dhcpAsk(two!.station, DISCOVER)).type).toBe(OFFER);
  });

  it('says nothing to who asks for another', async () => {
    const [one] = await lan({});
    const frame = dhcpFrame(Buffer.from('020000000001', 'hex'), DISCOVER);
    frame.set(one!.station.mac, 6);
    one!.station.send(frame);
    expect(await one!.station.maybe(readReply, QUIET_MS)).toBeUndefined();
  });
});

/** Asks the switch for a name. */
function ask(station: Station, source: number, name: string, type = A): Promise<DnsAnswer> {
  station.send(
    udpFrame({
      sourceMac: station.mac,
      destinationMac: switchMac('lan'),
      source,
      destination: SERVER,
      sourcePort: 5000,
      destinationPort: 53,
      data: dnsQuery(name, type),
    }),
  );
  return station.next((frame) => {
    const datagram = readUdp(frame);
    return datagram?.sourcePort === 53 ? readDnsAnswer(datagram.data) : undefined;
  });
}

describe('names on a network', () => {
  it('are those that the VMs were given, alone and below the domain, in any case', async () => {
    const [one, two] = await lan({ name: 'one' }, { name: 'two' });
    const own = (await lease(one!.station)).address;
    const { address } = await lease(two!.station, 'calls-itself-else');
    for (const name of ['two', 'two.lan.internal', 'TWO.lan.Internal']) {
      expect(await ask(one!.station, own, name), name).toEqual({
        rcode: 0,
        name,
        addresses: [address],
        names: [],
      });
    }
    expect((await ask(one!.station, own, 'calls-itself-else')).rcode).toBe(3);
  });

  it('are those that guests call themselves, where they were given none', async () => {
    const [one, two] = await lan({}, {});
    const own = (await lease(one!.station, 'debian')).address;
    await lease(two!.station, 'debian');
    expect(await ask(two!.station, own, 'debian')).toMatchObject({ rcode: 0, addresses: [own] });
  });

  it('have no address but an IPv4 one, and lead back', async () => {
    const [one] = await lan({ name: 'one' });
    const { address } = await lease(one!.station);
    expect(await ask(one!.station, address, 'one', AAAA)).toMatchObject({ rcode: 0, addresses: [] });
    const reverse = `${[...bytesOf(address)].reverse().join('.')}.in-addr.arpa`;
    expect(await ask(one!.station, address, reverse, PTR)).toMatchObject({
      rcode: 0,
      names: ['one.lan.internal'],
    });
  });

  it('of nobody do not exist, and go with their VM', async () => {
    const [one, two] = await lan({}, { name: 'two' });
    const { address } = await lease(one!.station);
    await lease(two!.station);
    expect((await ask(one!.station, address, 'nobody.lan.internal')).rcode).toBe(3);
    expect((await ask(one!.station, address, 'two')).rcode).toBe(0);
    await two!.backend.close();
    await one!.station.maybe(() => undefined, QUIET_MS);
    expect((await ask(one!.station, address, 'two')).rcode).toBe(3);
  });

  it('of the world are refused to a VM without an uplink', async () => {
    const [one] = await lan({});
    const { address } = await lease(one!.station);
    expect((await ask(one!.station, address, 'example.org')).rcode).toBe(5);
  });

  it('are answered to LLMNR, but not to their owner', async () => {
    const [one, two] = await lan({ name: 'one' }, { name: 'two' });
    const own = (await lease(one!.station)).address;
    const { address } = await lease(two!.station);
    const multicast = async (name: string): Promise<DnsAnswer | undefined> => {
      one!.station.send(
        udpFrame({
          sourceMac: one!.station.mac,
          destinationMac: Buffer.from('01005e0000fc', 'hex'),
          source: own,
          destination: 0xe00000fc,
          sourcePort: 5000,
          destinationPort: 5355,
          data: dnsQuery(name, A),
        }),
      );
      return one!.station.maybe((frame) => {
        const datagram = readUdp(frame);
        return datagram?.sourcePort === 5355 ? readDnsAnswer(datagram.data) : undefined;
      }, QUIET_MS);
    };
    expect(await multicast('two')).toMatchObject({ rcode: 0, addresses: [address] });
    expect(await multicast('one')).toBeUndefined();
    expect(await multicast('nobody')).toBeUndefined();
  });
});

describe('names of the world', () => {
  it("are asked of the host's resolver for a VM with an uplink, which hears nobody else's answers", async () => {
    const resolver = createSocket('udp4');
    onTestFinished(() => void resolver.close());
    resolver.bind(0, '127.0.0.1');
    await once(resolver, 'listening');
    resolver.on('message', (query, { port }) => {
      const wrong = Buffer.from(query);
      wrong.writeUInt16BE((query.readUInt16BE(0) + 1) & 0xffff, 0);
      resolver.send(wrong, port);
      const answer = Buffer.concat([query, Buffer.from('c00c00010001000000050004c0000207', 'hex')]);
      answer.writeUInt16BE(0x8180, 2);
      answer.writeUInt16BE(1, 6);
      resolver.send(answer, port);
    });
    const { DnsForwarder } = await import('../../../../src/net/vmnet/forwarder.ts');
    const forwarder = new DnsForwarder({
      servers: () => [{ address: '127.0.0.1', port: resolver.address().port }],
    });
    const answer = await forwarder.ask(1, dnsQuery('example.org', A));
    expect(readDnsAnswer(answer!)).toMatchObject({ rcode: 0, addresses: [0xc0000207] });
    await lan();
  });

  it('are not asked for by one port more than 32 times at once', async () => {
    const resolver = createSocket('udp4');
    onTestFinished(() => void resolver.close());
    resolver.bind(0, '127.0.0.1');
    await once(resolver, 'listening');
    const { DnsForwarder } = await import('../../../../src/net/vmnet/forwarder.ts');
    const forwarder = new DnsForwarder({
      servers: () => [{ address: '127.0.0.1', port: resolver.address().port }],
    });
    const query = dnsQuery('example.org', A);
    const asked = Array.from({ length: 40 }, () => forwarder.ask(1, query));
    expect(asked.filter((answer) => answer !== undefined)).toHaveLength(32);
    expect(forwarder.ask(2, query)).toBeDefined();
    forwarder.close();
    for (const answer of asked) expect(await answer).toBeUndefined();
    await lan();
  });
});

describe('the switch as a station', () => {
  it('answers ARP for its address alone', async () => {
    const [one] = await lan({});
    const request = (address: number): Buffer => {
      const frame = Buffer.alloc(42);
      frame.fill(0xff, 0, 6);
      frame.set(one!.station.mac, 6);
      frame.set([8, 6, 0, 1, 8, 0, 6, 4, 0, 1], 12);
      frame.set(one!.station.mac, 22);
      frame.writeUInt32BE(SERVER + 20, 28);
      frame.writeUInt32BE(address, 38);
      return frame;
    };
    const reply = answerArp(request(SERVER), SERVER, switchMac('lan'));
    one!.station.send(request(SERVER));
    expect((await one!.station.next((frame) => frame)).equals(reply!)).toBe(true);
    expect(reply!.subarray(22, 32).toString('hex')).toBe(
      switchMac('lan').toString('hex') + bytesOf(SERVER).toString('hex'),
    );
    one!.station.send(request(SERVER + 1));
    expect(await one!.station.maybe((frame) => frame, QUIET_MS)).toBeUndefined();
  });

  it('answers a ping with its data', async () => {
    const [one] = await lan({});
    const frame = Buffer.alloc(14 + 20 + 8 + 5);
    frame.set(switchMac('lan'), 0);
    frame.set(one!.station.mac, 6);
    frame.writeUInt16BE(0x0800, 12);
    frame.set([0x45, 0, 0, 33, 0, 0, 0, 0, 64, 1, 0, 0], 14);
    frame.writeUInt32BE(SERVER + 20, 26);
    frame.writeUInt32BE(SERVER, 30);
    frame.set([8, 0, 0, 0, 1, 2, 3, 4], 34);
    frame.write('hello', 42);
    one!.station.send(frame);
    const reply = await one!.station.next((each) => (each.length >= 47 && each[23] === 1 ? each : undefined));
    expect(reply.subarray(34, 36).toString('hex')).toBe('0000');
    expect(reply.toString('latin1', 38)).toBe('\x01\x02\x03\x04hello');
    expect(reply.readUInt32BE(30)).toBe(SERVER + 20);
  });
});
