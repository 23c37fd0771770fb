import { readSync, writeSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { FramePort, LONGEST_FRAME, OFFLOAD, RECEIVED, type FrameEnd } from '../../src/kvm/frame-port.ts';
import { receiveDescriptor, sendDescriptor, unixPair } from '../../src/kvm/unix-socket.ts';

const open: FramePort[] = [];
afterEach(() => {
  for (const port of open.splice(0)) port.shut();
});

type End = { readonly port: FramePort; readonly memory: Uint8Array; readonly buffer: number };

function end(fd: number): End {
  const port = new FramePort();
  open.push(port);
  port.open(fd, 'stream', false);
  const memory = new Uint8Array(1 << 20);
  return { port, memory, buffer: port.register(memory) };
}

/** Two ports that are connected. */
function pair(): [End, End] {
  const [one, other] = unixPair();
  return [end(one), end(other)];
}

/** A port and the bare socket at its other end. */
function bare(): { end: End; socket: number; other: FramePort } {
  const [one, socket] = unixPair();
  const other = new FramePort();
  open.push(other);
  other.open(socket, 'stream', false);
  return { end: end(one), socket, other };
}

function frame(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + seed * 13 + (i >> 8)) & 0xff);
}

function send({ port, memory, buffer }: End, ...frames: readonly Uint8Array[]): number {
  let at = 0;
  for (const bytes of frames) {
    memory.set(bytes, at);
    port.tx.add(buffer, at, bytes.length);
    port.tx.end();
    at += bytes.length;
  }
  const done = port.send();
  port.tx.clear();
  return done;
}

/** Gives room of these sizes, and returns what came into it. */
function receive({ port, memory, buffer }: End, ...rooms: readonly number[]): Uint8Array[] {
  let at = 0;
  const places = rooms.map((room) => {
    const place = at;
    port.rx.add(buffer, place, room);
    port.rx.end();
    at += room;
    return place;
  });
  const full = port.receive();
  const got = places.slice(0, full).map((place, i) => memory.slice(place, place + port.rx.written(i)));
  port.rx.clear();
  return got;
}

/** A frame after its length, as the protocol has it. */
function framed(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(4 + bytes.length);
  new DataView(out.buffer).setUint32(0, bytes.length);
  out.set(bytes, 4);
  return out;
}

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('frames over a socket', () => {
  test('go in batches, whole and in their order', () => {
    const [one, other] = pair();
    const frames = [14, 60, 1514, 9000, LONGEST_FRAME].map((length, i) => frame(length, i));
    expect(send(one, ...frames)).toBe(5);
    expect(receive(other, 100, 100, 2000, 10_000, 70_000)).toEqual(frames);
    expect(one.port.counters).toMatchObject({
      sentFrames: 5,
      sentBytes: 14 + 60 + 1514 + 9000 + LONGEST_FRAME,
    });
  });

  test('arrive however the bytes come', () => {
    const { end: one, socket } = bare();
    const bytes = Buffer.concat([framed(frame(20, 1)), framed(frame(33, 2))]);
    const got: Uint8Array[] = [];
    for (const byte of bytes) {
      writeSync(socket, Uint8Array.of(byte));
      got.push(...receive(one, 100));
    }
    expect(got).toEqual([frame(20, 1), frame(33, 2)]);
  });

  test.each([LONGEST_FRAME, 50_000, 20_000, 1514, 60])(
    'of %i bytes are never in the socket in part, however full that is',
    (length) => {
      const { end: one, socket } = bare();
      const buffer = Buffer.alloc(8 << 20);
      // Its peer reads what is there, and never all of it at a time.
      for (const most of [Infinity, 3, 1, Infinity]) {
        one.port.send();
        while (!one.port.isBlocked) {
          for (let i = 0; i < 16; i++) {
            one.port.tx.add(one.buffer, 0, length);
            one.port.tx.end();
          }
          const done = one.port.send();
          one.port.tx.clear();
          if (done < 16) break;
        }
        const size = Math.min(buffer.length, most * (length + 4));
        const got = readSync(socket, buffer, 0, size, null);
        expect(got).toBeGreaterThan(0);
        expect(got % (length + 4)).toBe(0);
      }
    },
  );

  test('that the socket has begun with are finished before others, and none is lost', async () => {
    const [one, other] = pair();
    let blocked = 0;
    one.port.onBlocked = (is) => (blocked += is ? 1 : 0);
    one.memory.fill(9, 0, 50_000);
    let sent = 0;
    while (!one.port.isBlocked) {
      one.port.tx.add(one.buffer, 0, 50_000);
      one.port.tx.end();
      const done = one.port.send();
      sent += done;
      one.port.tx.clear();
    }
    expect(blocked).toBe(1);
    const writable = new Promise<void>((resolve) => {
      one.port.user = { readable: () => undefined, writable: resolve };
    });
    let got = 0;
    const take = (): void => {
      for (
        let frames = receive(other, 60_000, 60_000);
        frames.length > 0;
        frames = receive(other, 60_000, 60_000)
      ) {
        for (const bytes of frames) {
          expect(bytes.length).toBe(50_000);
          expect(bytes.every((byte) => byte === 9)).toBe(true);
          got++;
        }
      }
    };
    take();
    await writable;
    take();
    expect(got).toBe(sent);
  });

  test.each([
    ['none', 0],
    ['more than any has', LONGEST_FRAME + 1],
    ['very much more', 0xffff_ffff],
  ])('of an impossible length end the connection: %s', async (_, length) => {
    const { end: one, socket } = bare();
    const ends: FrameEnd[] = [];
    one.port.onEnd = (why) => ends.push(why);
    const announced = new Uint8Array(4);
    new DataView(announced.buffer).setUint32(0, length);
    writeSync(socket, Buffer.concat([framed(frame(20)), announced]));
    expect(receive(one, 100, 100)).toEqual([frame(20)]);
    await tick();
    expect(ends).toEqual([{ kind: 'protocol' }]);
    expect(one.port.isOpen).toBe(false);
  });

  test('too short to be any are dropped', () => {
    const { end: one, socket } = bare();
    writeSync(socket, Buffer.concat([framed(frame(13)), framed(frame(14))]));
    expect(receive(one, 100, 100)).toEqual([frame(14)]);
    expect(one.port.counters.receiveDrops).toBe(1);
  });

  test('wait in the socket where there is no room, and the port says so', () => {
    const [one, other] = pair();
    send(one, frame(60, 1), frame(60, 2));
    expect(receive(other, 100)).toEqual([frame(60, 1)]);
    expect(other.port.received).toBe(RECEIVED.starved);
    expect(receive(other, 100)).toEqual([frame(60, 2)]);
  });

  test('are dropped while nothing is connected', () => {
    const [one] = pair();
    one.port.shut();
    expect(send(one, frame(60))).toBe(1);
    expect(one.port.counters.sendDrops).toBe(1);
  });

  test('are looked at where they are, without buffers for them', () => {
    const [one, other] = pair();
    send(one, frame(60, 1), frame(61, 2), frame(62, 3));
    expect(other.port.fetch()).toBe(3);
    const look = (i: number): Uint8Array => {
      const from = other.port.offset(i);
      return other.port.staging!.slice(from, from + other.port.length(i));
    };
    expect([0, 1, 2].map(look)).toEqual([frame(60, 1), frame(61, 2), frame(62, 3)]);
    other.port.consume(2);
    expect(other.port.fetch()).toBe(1);
    expect(look(0)).toEqual(frame(62, 3));
  });
});

describe('memory of frames', () => {
  test.each([
    ['behind its buffer', (one: End) => one.port.tx.add(one.buffer, 2 ** 20 - 10, 60)],
    ['far behind it', (one: End) => one.port.tx.add(one.buffer, 2 ** 52, 60)],
    ['before it', (one: End) => one.port.tx.add(one.buffer, -1, 60)],
    ['at no number', (one: End) => one.port.tx.add(one.buffer, NaN, 60)],
    ['of a buffer that there is not', (one: End) => one.port.tx.add(77, 0, 60)],
    ['of a negative buffer', (one: End) => one.port.tx.add(-1, 0, 60)],
  ])('that is not there is not sent: %s', (_, add) => {
    const [one, other] = pair();
    add(one);
    one.port.tx.end();
    one.port.tx.add(one.buffer, 0, 60);
    one.port.tx.end();
    expect(one.port.send()).toBe(2);
    expect(one.port.counters).toMatchObject({ refused: 1, sentFrames: 1 });
    expect(receive(other, 100)).toHaveLength(1);
  });

  test('that is not there is not received into', () => {
    const [one, other] = pair();
    send(one, frame(60));
    other.port.rx.add(other.buffer, 2 ** 20 - 10, 2000);
    other.port.rx.end();
    expect(other.port.receive()).toBe(0);
    expect(other.memory.every((byte) => byte === 0)).toBe(true);
  });

  test('may lie in more pieces than a system call takes', () => {
    const [one, other] = pair();
    const bytes = frame(3000);
    one.memory.set(bytes);
    for (let i = 0; i < 3000; i += 2) one.port.tx.add(one.buffer, i, 2);
    one.port.tx.end();
    expect(one.port.send()).toBe(1);
    expect(receive(other, 4000)).toEqual([bytes]);
  });

  test('has no room for more records than there are', () => {
    const [one] = pair();
    for (let i = 0; i < 1024; i++) {
      one.port.tx.add(one.buffer, 0, 60);
      expect(one.port.tx.end(i)).toBe(true);
    }
    expect(one.port.tx.isFull).toBe(true);
    one.port.tx.add(one.buffer, 0, 60);
    expect(one.port.tx.end()).toBe(false);
    one.port.tx.shift(1000);
    expect(one.port.tx.isFull).toBe(false);
    expect(one.port.tx.cookie(0)).toBe(1000);
    expect(one.port.tx.cookie(23)).toBe(1023);
  });
});

describe('what the guest leaves undone', () => {
  /** The Internet checksum of a segment with its pseudo header is 0 where it is right (RFC 1071). */
  function sum(...parts: readonly Uint8Array[]): number {
    let total = 0;
    for (const part of parts) {
      for (let i = 0; i < part.length; i += 2) total += (part[i]! << 8) + (part[i + 1] ?? 0);
    }
    while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
    return 0xffff - total;
  }

  /** TCP over IPv4 in a frame, with `payload` bytes. */
  function tcp4(payload: Uint8Array): Uint8Array {
    const bytes = new Uint8Array(54 + payload.length);
    bytes.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6]);
    bytes.set([10, 0, 0, 1, 10, 0, 0, 2], 26);
    bytes.set([0x30, 0x39, 0, 80, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x50, 0x19], 34);
    bytes.set(payload, 54);
    return bytes;
  }

  test('is cut into segments whose numbers and checksums are right', () => {
    const [one, other] = pair();
    one.port.configure({ header: true, hostOffloads: OFFLOAD.checksum | OFFLOAD.tso4 });
    const payload = frame(10_000);
    const header = Uint8Array.of(1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0);
    expect(send(one, Uint8Array.from([...header, ...tcp4(payload)]))).toBe(1);
    const segments = receive(other, ...Array.from({ length: 10 }, () => 2000));
    expect(segments.map(({ length }) => length - 54)).toEqual([1460, 1460, 1460, 1460, 1460, 1460, 1240]);
    let at = 0;
    for (const [i, segment] of segments.entries()) {
      const view = new DataView(segment.buffer);
      expect(view.getUint16(16)).toBe(segment.length - 14);
      expect(view.getUint16(18)).toBe(0x1234 + i);
      expect(sum(segment.subarray(14, 34))).toBe(0);
      // across the end of the sequence numbers
      expect(view.getUint32(38)).toBe((0xffff_ff00 + at) % 2 ** 32);
      expect(segment[47]).toBe(i === 6 ? 0x19 : 0x10);
      const length = segment.length - 34;
      const pseudo = Uint8Array.of(...segment.subarray(26, 34), 0, 6, length >> 8, length & 0xff);
      expect(sum(pseudo, segment.subarray(34))).toBe(0);
      expect(segment.subarray(54)).toEqual(payload.subarray(at, at + segment.length - 54));
      at += segment.length - 54;
    }
    expect(at).toBe(10_000);
  });

  test('gets its checksum, and its own memory stays as it is', () => {
    const [one, other] = pair();
    one.port.configure({ header: true, hostOffloads: OFFLOAD.checksum });
    const bytes = tcp4(frame(101));
    const packet = Uint8Array.from([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0, ...bytes]);
    send(one, packet);
    const [got] = receive(other, 2000);
    expect(sum(got!.subarray(34))).toBe(0);
    expect(one.memory.subarray(0, packet.length)).toEqual(packet);
  });

  test('by the host is done once, also where there is no room for it at first', () => {
    const [fd, socket] = unixPair();
    const port = new FramePort();
    open.push(port);
    port.open(fd, 'stream', true);
    port.configure({ header: true, mergeable: true });
    const memory = new Uint8Array(4096);
    const one: End = { port, memory, buffer: port.register(memory) };
    const bytes = tcp4(frame(101));
    send(end(socket), Uint8Array.from([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0, ...bytes]));
    expect(receive(one, 50)).toEqual([]);
    expect(receive(one, 50)).toEqual([]);
    const [got] = receive(one, 2000);
    expect(got!.subarray(0, 10)).toEqual(new Uint8Array(10));
    expect(got!.length).toBe(12 + bytes.length);
    expect(sum(got!.subarray(12 + 34))).toBe(0);
  });
});

describe('sockets', () => {
  test('are handed over with a byte', () => {
    const [one, other] = unixPair();
    const [near, far] = unixPair();
    expect(receiveDescriptor(other)).toBeUndefined();
    sendDescriptor(one, far);
    const handed = receiveDescriptor(other);
    expect(handed).toBeGreaterThan(2);
    const ours = end(near);
    const theirs = end(handed!);
    send(ours, frame(60));
    expect(receive(theirs, 100)).toEqual([frame(60)]);
    for (const fd of [one, other, far]) end(fd);
  });

  test('that the other end leaves are told of, read or not', async () => {
    const [one, other] = pair();
    const ends: FrameEnd[] = [];
    one.port.onEnd = (why) => ends.push(why);
    one.port.listen(false);
    other.port.shut();
    for (let i = 0; i < 100 && ends.length === 0; i++) await tick();
    expect(ends).toEqual([{ kind: 'closed' }]);
  });
});
