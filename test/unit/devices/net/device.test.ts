import { afterEach, describe, expect, test } from 'vitest';
import { formatMacAddress, macAddressFor, parseMacAddress } from '../../../../src/devices/net/mac-address.ts';
import { DeviceStateError } from '../../../../src/kvm/device-state.ts';
import type { DriverQueue, Placed } from '../../../support/virtio/driver-queue.ts';
import {
  F,
  frame,
  netFixture,
  netHeader,
  PEER,
  STATION,
  type NetFixture,
} from '../../../support/virtio/net.ts';
import { FakeMachine } from '../../../support/virtio/machine.ts';
import { Rig, type Negotiation, type RigOptions } from '../../../support/virtio/rig.ts';

const BROADCAST = new Uint8Array(6).fill(0xff);
const GROUP = Uint8Array.of(0x33, 0x33, 0, 0, 0, 1);

type Card = NetFixture & {
  readonly rig: Rig;
  readonly rx: DriverQueue;
  readonly tx: DriverQueue;
  /** buffers with frames that nobody has looked at */
  readonly pending: { written: number; buffers: Placed[] }[];
};

let open: NetFixture[] = [];
afterEach(async () => {
  for (const fixture of open.splice(0)) await fixture.close();
  open = [];
});

function card(
  options: Parameters<typeof netFixture>[0] = {},
  { without = [], ...how }: Negotiation & Partial<RigOptions> & { without?: readonly number[] } = {},
): Card {
  const fixture = netFixture(options);
  open.push(fixture);
  const { transport = 'pci', memory = 'one window', ...negotiation } = how;
  const rig = new Rig(fixture.device, { transport, memory });
  if (without.length > 0) {
    const accept = rig.driver.acceptFeatures.bind(rig.driver);
    rig.driver.acceptFeatures = (select, word) => {
      let kept = word;
      for (const bit of without) if (bit >> 5 === select) kept &= ~(1 << (bit & 31));
      accept(select, kept >>> 0);
    };
  }
  rig.start(negotiation);
  return { ...fixture, rig, rx: rig.queue(0), tx: rig.queue(1), pending: [] };
}

/** Gives the device buffers of these sizes to receive into. */
function post({ rig, rx }: Card, ...sizes: readonly number[]): void {
  for (const size of sizes) rx.chain(rx.place([{ room: size }]));
  rx.publish();
  rig.driver.notify(rx.index);
  rig.machine.settle();
}

/** The next frame that the driver gets: its header, its bytes and the buffers it lies in. */
async function received({
  rig,
  rx,
  pending,
}: Card): Promise<{ header: DataView; bytes: Uint8Array; buffers: number }> {
  const collect = (): number => pending.push(...rx.collect());
  await rig.machine.until(() => collect() > 0);
  const total = new DataView(rx.reply(pending[0]!.buffers).buffer).getUint16(10, true);
  await rig.machine.until(() => collect() >= total);
  const parts = pending
    .splice(0, total)
    .map(({ written, buffers }) => rx.reply(buffers).subarray(0, written));
  const all = Buffer.concat(parts);
  return {
    header: new DataView(all.buffer, all.byteOffset, 12),
    bytes: Uint8Array.from(all.subarray(12)),
    buffers: total,
  };
}

/** Sends, and waits until the device has given all of it back. */
async function transmit({ rig, tx }: Card, ...packets: readonly Uint8Array[]): Promise<void> {
  for (const packet of packets) tx.chain(tx.place([{ bytes: packet }]));
  tx.publish();
  rig.driver.notify(tx.index);
  let left = packets.length;
  await rig.machine.until(() => (left -= tx.collect().length) === 0);
}

const packet = (bytes: Uint8Array, fields = {}): Uint8Array =>
  Uint8Array.from([...netHeader(fields), ...bytes]);

async function command({ rig }: Card, bytes?: readonly number[]): Promise<number> {
  const control = rig.queue(rig.queues.length - 1);
  const asked = bytes === undefined ? [] : [{ bytes: Uint8Array.from(bytes) }];
  const { reply } = await rig.ask(control, [...asked, { room: 1 }]);
  return reply[0]!;
}

/** Waits until the device has received so many frames of the host, taken or not. */
async function seen(one: Card, count: number): Promise<void> {
  await one.rig.machine.until(() => {
    const { receivedFrames, filtered, receiveDrops } = one.backend.ports[0]!.counters;
    return receivedFrames + filtered + receiveDrops >= count;
  });
}

describe('frames of the guest', () => {
  test.each(['one window', 'a window a page'] as const)(
    'reach the host as they are, RAM in %s',
    async (memory) => {
      const one = card({}, { memory });
      const frames = [frame(60), frame(1514, PEER, 2), frame(14, PEER, 3), frame(9014, PEER, 4)];
      await transmit(one, ...frames.map((bytes) => packet(bytes)));
      expect(one.peer.receive()).toEqual(frames);
    },
  );

  test('may lie in many pieces, the header too', async () => {
    const one = card();
    const bytes = packet(frame(200));
    const pieces = [bytes.slice(0, 5), bytes.slice(5, 11), bytes.slice(11, 30), bytes.slice(30)];
    const { written } = await one.rig.ask(
      one.tx,
      pieces.map((each) => ({ bytes: each })),
    );
    expect(written).toBe(0);
    expect(one.peer.receive()).toEqual([frame(200)]);
  });

  test('have a header with them where the back end has such', async () => {
    const one = card({ vnetHeader: true });
    const fields = { flags: 1, csumStart: 34, csumOffset: 6 };
    await transmit(one, packet(frame(100), fields));
    expect(one.peer.receive()).toEqual([packet(frame(100), fields)]);
  });

  test.each([
    ['shorter than a header', new Uint8Array(11)],
    ['a header alone', netHeader()],
    ['shorter than an Ethernet header', packet(frame(60).slice(0, 13))],
    [
      'a kind of segmentation that was not offered',
      packet(frame(100), { flags: 1, gsoType: 3, gsoSize: 100 }),
    ],
    ['a checksum behind the end', packet(frame(100), { flags: 1, csumStart: 90, csumOffset: 10 })],
    [
      'a checksum far behind the end',
      packet(frame(100), { flags: 1, csumStart: 0xffff, csumOffset: 0xffff }),
    ],
    ['segments of no bytes', packet(frame(100), { flags: 1, gsoType: 1, csumStart: 34, csumOffset: 16 })],
    ['segments without a checksum', packet(frame(100), { gsoType: 1, gsoSize: 40 })],
    [
      'segments of what is no IP',
      packet(frame(100), { flags: 1, gsoType: 1, gsoSize: 40, csumStart: 34, csumOffset: 16 }),
    ],
  ])('that make no sense are given back and counted: %s', async (_, bytes) => {
    const one = card();
    await transmit(one, bytes, packet(frame(60)));
    expect(one.peer.receive()).toEqual([frame(60)]);
    expect(one.backend.ports[0]!.counters).toMatchObject({ refused: 1, sentFrames: 1, sentBytes: 60 });
  });

  test('must not ask for what the driver has not negotiated', async () => {
    const one = card({}, { without: [F.csum, F.hostTso4, F.hostTso6, F.hostEcn] });
    await transmit(one, packet(frame(100), { flags: 1, csumStart: 34, csumOffset: 6 }));
    expect(one.peer.receive()).toEqual([]);
    expect(one.backend.ports[0]!.counters.refused).toBe(1);
  });

  test('longer than any frame are given back', async () => {
    const one = card();
    const piece = { address: 0x20000, length: 40_000, writable: false };
    one.tx.chain([piece, piece]);
    one.tx.publish();
    one.rig.driver.notify(1);
    await one.rig.machine.until(() => one.tx.hasUsed);
    expect(one.backend.ports[0]!.counters.refused).toBe(1);
  });

  test('wait, and nothing grows, while the host takes none; none is lost', async () => {
    const one = card({ queueSize: 256 }, { queueSize: 256 });
    const big = packet(frame(30_000));
    const [placed] = one.tx.place([{ bytes: big }]);
    let sent = 0;
    const add = (): void => {
      one.tx.chain([placed!]);
      one.tx.publish();
      sent++;
      one.rig.driver.notify(1);
      one.rig.machine.settle();
    };
    for (let i = 0; i < 200; i++) add();
    const before = one.tx.collect().length;
    expect(before).toBeLessThan(200);
    let got = one.peer.receive().length;
    let done = before;
    await one.rig.machine.until(() => {
      got += one.peer.receive().length;
      done += one.tx.collect().length;
      return done === sent && got === sent;
    });
    expect(one.backend.ports[0]!.isBlocked).toBe(false);
  });

  test('are dropped while there is no link, and the driver gets them back', async () => {
    const one = card();
    one.device.setLink(false);
    await transmit(one, packet(frame(60)));
    one.device.setLink(true);
    await transmit(one, packet(frame(61)));
    expect(one.peer.receive()).toEqual([frame(61)]);
  });

  test('that waited for the host are given back when the link goes', () => {
    const one = card({ queueSize: 256 }, { queueSize: 256 });
    const [placed] = one.tx.place([{ bytes: packet(frame(30_000)) }]);
    for (let i = 0; i < 100; i++) one.tx.chain([placed!]);
    one.tx.publish();
    one.rig.driver.notify(1);
    one.rig.machine.settle();
    const before = one.tx.collect().length;
    expect(before).toBeLessThan(100);
    one.backend.setLink(false);
    expect(one.tx.collect().length).toBe(100 - before);
  });

  test('pass as fast as the limit says', async () => {
    const one = card({ rate: { transmit: { operations: { rate: 1000, burst: 5 } } } });
    const start = performance.now();
    await transmit(one, ...Array.from({ length: 10 }, () => packet(frame(60))));
    await transmit(one, ...Array.from({ length: 10 }, () => packet(frame(60))));
    // 20 frames, 5 of them at once
    expect(performance.now() - start).toBeGreaterThanOrEqual(14);
    expect(one.peer.receive()).toHaveLength(20);
  });
});

describe('frames of the host', () => {
  test.each(['one window', 'a window a page'] as const)('reach the driver, RAM in %s', async (memory) => {
    const one = card({}, { memory });
    post(one, 2048, 2048, 2048);
    one.peer.send(frame(60, STATION), frame(1514, STATION, 2));
    for (const expected of [frame(60, STATION), frame(1514, STATION, 2)]) {
      const { bytes, header, buffers } = await received(one);
      expect(bytes).toEqual(expected);
      expect(buffers).toBe(1);
      expect(header.getUint8(0)).toBe(0);
      expect(header.getUint8(1)).toBe(0);
    }
  });

  test('go over several buffers, which the header counts', async () => {
    const one = card();
    post(one, 600, 600, 600, 600, 600);
    one.peer.send(frame(1514, STATION));
    const { bytes, buffers } = await received(one);
    expect(bytes).toEqual(frame(1514, STATION));
    expect(buffers).toBe(3);
    one.peer.send(frame(1000, STATION, 2));
    expect((await received(one)).bytes).toEqual(frame(1000, STATION, 2));
  });

  test('wait for buffers, all of those that they need, and nothing is lost', async () => {
    const one = card();
    one.peer.send(frame(1500, STATION, 1), frame(1501, STATION, 2));
    post(one, 700);
    await one.rig.machine.pass(5);
    expect(one.rx.hasUsed).toBe(false);
    post(one, 700, 700);
    expect((await received(one)).bytes).toEqual(frame(1500, STATION, 1));
    expect(one.rx.hasUsed).toBe(false);
    post(one, 2000);
    expect((await received(one)).bytes).toEqual(frame(1501, STATION, 2));
  });

  test('are not read while the driver has no buffer: a flood waits in the socket', async () => {
    const one = card();
    const flood = frame(30_000, STATION);
    let sent = 0;
    for (let taken = 1; taken > 0;) {
      taken = one.peer.send(flood);
      sent += taken;
      await one.rig.machine.pass(0);
    }
    await one.rig.machine.pass(20);
    expect(one.peer.port.isBlocked).toBe(true);
    for (let got = 0; got < sent; got++) {
      post(one, ...Array.from({ length: 15 }, () => 2048));
      expect(Buffer.compare((await received(one)).bytes, flood)).toBe(0);
      one.rig.buffers.clear();
    }
  });

  test('that do not fit are dropped where buffers are not merged', async () => {
    const one = card({}, { without: [F.mrgRxbuf] });
    post(one, 500, 1600);
    one.peer.send(frame(600, STATION, 1), frame(400, STATION, 2), frame(1500, STATION, 3));
    expect((await received(one)).bytes).toEqual(frame(400, STATION, 2));
    expect((await received(one)).bytes).toEqual(frame(1500, STATION, 3));
    expect(one.backend.ports[0]!.counters.receiveDrops).toBe(1);
  });

  test('never go into what the driver did not give to write', async () => {
    const one = card();
    const readable = one.rx.place([{ bytes: new Uint8Array(2048).fill(0x5a) }]);
    one.rx.chain(readable);
    post(one, 2048);
    one.peer.send(frame(60, STATION));
    await seen(one, 1);
    await one.rig.machine.until(() => one.rx.deviceIndex === 2);
    const used = one.rx.collect();
    expect(used.map(({ written }) => written)).toEqual([0, 72]);
    expect(one.rig.machine.memory.read(readable[0]!.address, 2048).every((byte) => byte === 0x5a)).toBe(true);
  });

  test('pass as fast as the limit says', async () => {
    const one = card({ rate: { receive: { bytes: { rate: 100_000, burst: 1000 } } } });
    post(one, ...Array.from({ length: 8 }, () => 2048));
    const start = performance.now();
    one.peer.send(frame(1500, STATION));
    await received(one);
    one.peer.send(frame(1500, STATION));
    await received(one);
    // a debt of 500 bytes before the second
    expect(performance.now() - start).toBeGreaterThanOrEqual(4);
  });
});

describe('the receive filter', () => {
  /** Which of these frames the driver gets. */
  async function passes(one: Card, ...frames: readonly Uint8Array[]): Promise<boolean[]> {
    post(one, ...frames.map(() => 256));
    const got: boolean[] = [];
    for (const bytes of frames) {
      const { receivedFrames, filtered } = one.backend.ports[0]!.counters;
      one.peer.send(bytes);
      await seen(one, receivedFrames + filtered + 1);
      got.push(one.backend.ports[0]!.counters.receivedFrames > receivedFrames);
    }
    return got;
  }
  const all = [frame(60, STATION), frame(60, PEER), frame(60, GROUP), frame(60, BROADCAST)];
  /** IEEE 802.1Q: a tag behind the addresses */
  const tagged = (vlan: number, to = STATION): Uint8Array => {
    const bytes = frame(64, to);
    bytes.set([0x81, 0, vlan >> 8, vlan & 0xff], 12);
    return bytes;
  };

  test('lets everything through until the driver says otherwise', async () => {
    expect(await passes(card(), ...all)).toEqual([true, true, true, true]);
  });

  test('then lets through what is for the card, and for all', async () => {
    const one = card();
    expect(await command(one, [0, 0, 0])).toBe(0);
    expect(await passes(one, ...all)).toEqual([true, false, false, true]);
  });

  test.each([
    ['all groups', [0, 1, 1], [true, false, true, true]],
    ['all stations', [0, 2, 1], [true, true, false, true]],
    ['no groups', [0, 3, 1], [true, false, false, true]],
    ['no stations', [0, 4, 1], [false, false, false, true]],
    ['not what is for all', [0, 5, 1], [true, false, false, false]],
  ])('knows %s', async (_, mode, expected) => {
    const one = card();
    await command(one, [0, 0, 0]);
    expect(await command(one, mode)).toBe(0);
    expect(await passes(one, ...all)).toEqual(expected);
  });

  test('knows tables of addresses', async () => {
    const one = card();
    await command(one, [0, 0, 0]);
    expect(await command(one, [1, 0, 1, 0, 0, 0, ...PEER, 1, 0, 0, 0, ...GROUP])).toBe(0);
    expect(await passes(one, ...all)).toEqual([true, true, true, true]);
    expect(await command(one, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0])).toBe(0);
    expect(await passes(one, ...all)).toEqual([true, false, false, true]);
  });

  test('lets all groups through where there are more than it has room for', async () => {
    const one = card();
    await command(one, [0, 0, 0]);
    const groups = Array.from({ length: 65 }, (_, i) => [1, 0, 0x5e, 0, 1, i]).flat();
    expect(await command(one, [1, 0, 0, 0, 0, 0, 65, 0, 0, 0, ...groups])).toBe(0);
    expect(await passes(one, ...all)).toEqual([true, false, true, true]);
  });

  test('lets VLANs through that the driver has added', async () => {
    const one = card();
    await command(one, [0, 0, 0]);
    const frames = [tagged(5), tagged(0xfff), tagged(0), tagged(5, PEER)];
    expect(await passes(one, ...frames)).toEqual([false, false, true, false]);
    expect(await command(one, [2, 0, 5, 0])).toBe(0);
    expect(await command(one, [2, 0, 0xff, 0x0f])).toBe(0);
    expect(await passes(one, ...frames)).toEqual([true, true, true, false]);
    expect(await command(one, [2, 1, 5, 0])).toBe(0);
    expect(await passes(one, ...frames)).toEqual([false, true, true, false]);
  });

  test('knows nothing of VLANs where the driver does not', async () => {
    const one = card({}, { without: [F.ctrlVlan] });
    await command(one, [0, 0, 0]);
    expect(await passes(one, tagged(5))).toEqual([true]);
    expect(await command(one, [2, 0, 5, 0])).toBe(1);
  });

  test('follows a new address, which a reset takes back', async () => {
    const one = card();
    await command(one, [0, 0, 0]);
    expect(await command(one, [1, 1, ...PEER])).toBe(0);
    expect(one.device.config.getBytes('mac')).toEqual(PEER);
    expect(await passes(one, ...all)).toEqual([false, true, false, true]);
    one.rig.driver.status = 0;
    one.rig.machine.settle();
    expect(one.device.config.getBytes('mac')).toEqual(STATION);
  });
});

describe('control commands', () => {
  test.each([
    ['none at all', undefined],
    ['half a header', [0]],
    ['a mode without a value', [0, 0]],
    ['a mode that there is not', [0, 6, 1]],
    ['an address that is too short', [1, 1, 2, 0, 0, 0, 1]],
    ['a table without its second half', [1, 0, 0, 0, 0, 0]],
    ['a table of more than there is', [1, 0, 2, 0, 0, 0, ...PEER, 0, 0, 0, 0]],
    ['a table of very many', [1, 0, 0xff, 0xff, 0xff, 0xff, ...PEER]],
    ['a VLAN that there is not', [2, 0, 0, 0x10]],
    ['half a VLAN', [2, 0, 1]],
    ['an unknown VLAN command', [2, 2, 1, 0]],
    ['an unknown announcement', [3, 1]],
    ['pairs without multi-queue', [4, 0, 1, 0]],
    ['offloads that are not offered', [5, 0, 2, 0, 0, 0, 0, 0, 0, 0]],
    ['an unknown class', [77, 0, 0]],
  ])('that make no sense are refused: %s', async (_, bytes) => {
    const one = card();
    expect(await command(one, bytes)).toBe(1);
    expect(await command(one, [0, 0, 1])).toBe(0);
  });

  test('choose how many pairs of queues are in use', async () => {
    const one = card({ pairs: 3 });
    expect(one.device.config.get('max_virtqueue_pairs')).toBe(3);
    expect(await command(one, [4, 0, 3, 0])).toBe(0);
    expect(one.backend.queues).toBe(3);
    expect(await command(one, [4, 0, 0, 0])).toBe(1);
    expect(await command(one, [4, 0, 4, 0])).toBe(1);
    expect(one.backend.queues).toBe(3);
    one.rig.driver.status = 0;
    one.rig.machine.settle();
    expect(one.backend.queues).toBe(1);
  });

  test('choose what the driver takes undone', async () => {
    const one = card({ vnetHeader: true });
    expect(one.backend.offloads).toBe(15);
    expect(await command(one, [5, 0, 0x02, 0, 0, 0, 0, 0, 0, 0])).toBe(0);
    expect(one.backend.offloads).toBe(1);
    expect(await command(one, [5, 0, 0x83, 0, 0, 0, 0, 0, 0, 0])).toBe(1);
    expect(one.backend.offloads).toBe(1);
  });

  test('are found behind the first pair where the driver does not know of more', async () => {
    const one = card({ pairs: 2 }, { without: [F.mq] });
    const { reply } = await one.rig.ask(one.rig.queue(2), [{ bytes: Uint8Array.of(0, 0, 0) }, { room: 1 }]);
    expect(reply[0]).toBe(0);
  });

  test('go to whoever has room for an answer only', async () => {
    const one = card();
    const { written } = await one.rig.ask(one.rig.queue(2), [{ bytes: Uint8Array.of(0, 0, 0) }]);
    expect(written).toBe(0);
  });
});

describe('several pairs of queues', () => {
  test('each have a way of their own', async () => {
    const one = card({ pairs: 2 });
    await command(one, [4, 0, 2, 0]);
    const second = { ...one, rx: one.rig.queue(2), tx: one.rig.queue(3), pending: [] };
    await transmit(one, packet(frame(60)));
    await transmit(second, packet(frame(61)));
    expect(one.backend.peers.map((peer) => peer.receive())).toEqual([[frame(60)], [frame(61)]]);
    post(one, 256);
    post(second, 256);
    one.backend.peers[1]!.send(frame(70, STATION));
    expect((await received(second)).bytes).toEqual(frame(70, STATION));
    expect(one.rx.hasUsed).toBe(false);
  });
});

describe('a pair of queues that is not in use', () => {
  test('neither sends nor receives until it is, and then what waits there', async () => {
    const one = card({ pairs: 2 });
    const second = { ...one, rx: one.rig.queue(2), tx: one.rig.queue(3), pending: [] };
    post(second, 256);
    second.tx.chain(second.tx.place([{ bytes: packet(frame(60)) }]));
    second.tx.publish();
    one.rig.driver.notify(3);
    one.backend.peers[1]!.send(frame(70, STATION));
    await one.rig.machine.pass(5);
    expect(second.tx.hasUsed || second.rx.hasUsed).toBe(false);
    await command(one, [4, 0, 2, 0]);
    expect((await received(second)).bytes).toEqual(frame(70, STATION));
    expect(one.backend.peers[1]!.receive()).toEqual([frame(60)]);
  });
});

describe('the link', () => {
  test('is told of, both that of the card and that of the back end', () => {
    const { device, backend, rig } = card();
    const states: number[] = [];
    const look = (): void => void states.push(device.config.get('status') & 1);
    device.setLink(false);
    expect(rig.driver.interrupts().config).toBe(true);
    look();
    backend.setLink(false);
    device.setLink(true);
    look();
    backend.setLink(true);
    look();
    expect(states).toEqual([0, 0, 1]);
    expect(backend.carrier).toBe(true);
  });

  test('has the driver announce itself when it comes up, until it has', async () => {
    const one = card();
    one.backend.setLink(false);
    one.backend.setLink(true);
    expect(one.device.config.get('status')).toBe(3);
    expect(await command(one, [3, 0])).toBe(0);
    expect(one.device.config.get('status')).toBe(1);
  });

  test('has it announce itself where it has come to another place', async () => {
    const one = card();
    one.device.announce();
    expect(one.rig.driver.interrupts().config).toBe(true);
    expect(one.device.config.get('status')).toBe(3);
    expect(await command(one, [3, 0])).toBe(0);
    expect(one.device.config.get('status')).toBe(1);
  });

  test('asks nobody to who does not know how', () => {
    const { backend, device } = card({}, { without: [F.guestAnnounce] });
    backend.setLink(false);
    backend.setLink(true);
    device.announce();
    expect(device.config.get('status')).toBe(1);
  });

  test('lets nothing in while it is down, and what came meanwhile is gone', async () => {
    const one = card();
    post(one, 256, 256);
    one.device.setLink(false);
    one.peer.send(frame(60, STATION, 1));
    await one.rig.machine.pass(5);
    expect(one.rx.hasUsed).toBe(false);
  });
});

describe('features', () => {
  test('are those that the back end can do', () => {
    const plain = netFixture();
    const rich = netFixture({ vnetHeader: true, mtu: 1400, pairs: 2 });
    open.push(plain, rich);
    for (const bit of [F.mac, F.status, F.mrgRxbuf, F.csum, F.hostTso4, F.hostTso6, F.ctrlVq, F.speedDuplex])
      expect(plain.device.features.has(bit)).toBe(true);
    for (const bit of [F.guestCsum, F.guestTso4, F.guestTso6, F.guestEcn, F.ctrlGuestOffloads, F.mtu, F.mq]) {
      expect(plain.device.features.has(bit)).toBe(false);
      expect(rich.device.features.has(bit)).toBe(true);
    }
    expect(rich.device.config.get('mtu')).toBe(1400);
  });

  test.each([
    ['segmentation without checksums', [F.csum]],
    ['congestion marks without segmentation', [F.hostTso4, F.hostTso6]],
    ['received segments without checksums', [F.guestCsum]],
    ['commands without their queue', [F.ctrlVq]],
  ])('that need others are refused without them: %s', (_, without) => {
    expect(() => card({ vnetHeader: true, pairs: 2 }, { without })).toThrow('FEATURES_OK');
  });
});

describe('a saved card', () => {
  test('goes on with filter, address, queues and offloads where it stood', async () => {
    const one = card({ pairs: 2, vnetHeader: true });
    await command(one, [0, 0, 0]);
    await command(one, [1, 1, ...PEER]);
    await command(one, [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, ...GROUP]);
    await command(one, [2, 0, 7, 0]);
    await command(one, [4, 0, 2, 0]);
    await command(one, [5, 0, 0x02, 0, 0, 0, 0, 0, 0, 0]);
    post(one, 256);
    await one.rig.core.pause();
    const state = one.rig.save();
    const other = netFixture({ pairs: 2, vnetHeader: true });
    open.push(other);
    const machine = new FakeMachine(one.rig.machine.memory);
    const rig = new Rig(other.device, { transport: 'pci', memory: 'one window' }, machine);
    rig.restore(JSON.parse(JSON.stringify(state)));
    rig.core.resume();
    rig.machine.settle();
    expect(other.backend.queues).toBe(2);
    expect(other.backend.offloads).toBe(1);
    expect(other.device.config.getBytes('mac')).toEqual(PEER);
    expect(other.device.save()).toEqual(one.device.save());
    other.peer.send(packet(frame(60, STATION)), packet(frame(61, PEER)));
    const again = { ...one, ...other, rig };
    expect((await received(again)).bytes).toEqual(frame(61, PEER));
  });

  test.each([
    ['an address of five bytes', { mac: [2, 0, 0, 0, 1] }],
    ['no pair of queues', { pairs: 0 }],
    ['more pairs than there are', { pairs: 2 }],
    ['a VLAN that there is not', { vlans: [4096] }],
    ['a mode that there is not', { modes: ['everything'] }],
    ['offloads that there are not', { offloads: 16 }],
  ])('is refused with %s', (_, change) => {
    const { device } = card();
    const state = { ...device.save(), ...change };
    expect(() => device.restore(state)).toThrow(DeviceStateError);
  });
});

describe('a card in a machine that is paused', () => {
  test('neither sends nor receives, and goes on with both', async () => {
    const one = card();
    post(one, 256);
    await one.device.pause();
    one.peer.send(frame(60, STATION));
    one.tx.chain(one.tx.place([{ bytes: packet(frame(61)) }]));
    one.tx.publish();
    one.rig.driver.notify(1);
    await one.rig.machine.pass(5);
    expect(one.rx.hasUsed || one.tx.hasUsed).toBe(false);
    one.device.resume();
    for (const index of [0, 1]) one.device.notified(index);
    expect((await received(one)).bytes).toEqual(frame(60, STATION));
    expect(one.peer.receive()).toEqual([frame(61)]);
  });
});

describe('the address of a card', () => {
  test('is of no manufacturer and of one station, the same each time and another one for each', () => {
    const addresses = ['a', 'b', 'c'].flatMap((seed) => [0, 1].map((index) => macAddressFor(seed, index)));
    for (const address of addresses) expect(address[0]! & 3).toBe(2);
    expect(new Set(addresses.map(formatMacAddress)).size).toBe(6);
    expect(macAddressFor('a', 1)).toEqual(addresses[1]);
  });

  test('is read as it is written', () => {
    expect(formatMacAddress(parseMacAddress('52:54:00:AB:cd:0f'))).toBe('52:54:00:ab:cd:0f');
  });

  test.each([
    '',
    '52:54:00:ab:cd',
    '52:54:00:ab:cd:0g',
    '52-54-00-ab-cd-0f',
    '01:00:5e:00:00:01',
    '00:00:00:00:00:00',
  ])("is not '%s'", (text) => {
    expect(() => parseMacAddress(text)).toThrow(RangeError);
  });
});
