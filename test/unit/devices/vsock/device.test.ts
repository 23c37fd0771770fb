import { beforeEach, describe, expect, test, vi } from 'vitest';
import { CONNECTION_LIMIT, VsockDevice } from '../../../../src/devices/vsock/device.ts';
import { FakeMachine } from '../../../support/virtio/machine.ts';
import { FEATURE, Rig } from '../../../support/virtio/rig.ts';
import { CID, FakeHost, HEADER, OP, VsockRig, type Packet } from './support.ts';

const RECEIVE = 1;
const SEND = 2;
const BOTH = 3;
const BUFFER = 256 * 1024;
const ROOM_PIECE = 64 * 1024;

let host: FakeHost;
let device: VsockDevice;
let rig: VsockRig;
let lines: string[];

function make(transport: 'mmio' | 'pci' = 'pci'): VsockRig {
  host = new FakeHost();
  lines = [];
  device = new VsockDevice({
    name: 'vsock0',
    cid: CID,
    backend: host,
    log: (line) => lines.push(line),
    defer: (callback) => host.later(callback),
  });
  return new VsockRig(device, host, transport);
}

beforeEach(() => {
  rig = make();
  rig.begin({ bits: [FEATURE.eventIdx] });
});

const text = (packets: readonly Packet[]): string =>
  Buffer.concat(packets.filter(({ op }) => op === OP.data).map(({ payload }) => payload)).toString();

describe('the device', () => {
  test('offers streams, and tells the guest its address', () => {
    expect(device.deviceId).toBe(19);
    expect(rig.driver.deviceFeatures(0) & 0xff_ffff).toBe(1);
    expect([rig.driver.readConfig(0, 4), rig.driver.readConfig(4, 4)]).toEqual([CID, 0]);
  });

  test.each([0, 1, 2, 2 ** 32 - 1, 2 ** 32, 3.5, -1, NaN])('refuses %d as the address of a guest', (cid) => {
    expect(() => new VsockDevice({ name: 'vsock0', cid, backend: new FakeHost() })).toThrow(RangeError);
  });
});

describe('a connection from the guest', () => {
  test('is accepted once the host has it, with the room that there is', () => {
    host.waits = true;
    rig.sends(OP.request);
    expect(rig.hears()).toEqual([]);
    host.last.guest!.connected();
    expect(rig.hears()).toMatchObject([
      {
        ...{ sourceCid: 2, targetCid: CID, sourcePort: 52, targetPort: 1000, type: 1, op: OP.response },
        ...{ length: 0, flags: 0, bufferSize: BUFFER, forwarded: 0 },
      },
    ]);
  });

  test('carries data both ways', () => {
    const program = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('question') });
    expect(program.text).toBe('question');
    program.send('ans', 'wer');
    expect(text(rig.hears())).toBe('answer');
  });

  test.each(['refused later', 'refused at once'])('that is %s is reset', (how) => {
    (how === 'refused later' ? host.refusing : host.closed).add(52);
    rig.sends(OP.request);
    expect(rig.hears()).toMatchObject([{ op: OP.reset, sourcePort: 52, targetPort: 1000 }]);
    expect(device.connectionCount).toBe(0);
  });

  test('may have the same port of the guest as one to another port of the host', () => {
    const one = rig.connects(52);
    const other = rig.connects(53);
    rig.sends(OP.data, { targetPort: 53, payload: Buffer.from('x') });
    expect([one.text, other.text]).toEqual(['', 'x']);
  });

  test('that asks once more is reset', () => {
    const program = rig.connects();
    rig.sends(OP.request);
    expect(rig.ops()).toEqual([OP.reset]);
    expect(program.told).toEqual(['destroy']);
  });

  test('that sends before it is accepted is reset', () => {
    host.waits = true;
    rig.sends(OP.request);
    rig.sends(OP.data, { payload: Buffer.from('x') });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(host.last.told).toEqual(['destroy']);
  });
});

describe('a connection from the host', () => {
  test('is there once the guest accepts it', () => {
    const program = host.open(80)!;
    const [request] = rig.hears();
    expect(request).toMatchObject({
      sourceCid: 2,
      targetCid: CID,
      targetPort: 80,
      op: OP.request,
      bufferSize: BUFFER,
    });
    expect(program.port).toBeUndefined();
    rig.sends(OP.response, { sourcePort: 80, targetPort: request!.sourcePort });
    expect(program.port).toBe(request!.sourcePort);
    program.send('hello');
    expect(text(rig.hears())).toBe('hello');
  });

  test('that the guest refuses ends', () => {
    const program = host.open(80)!;
    const [request] = rig.hears();
    rig.sends(OP.reset, { sourcePort: 80, targetPort: request!.sourcePort });
    expect(program.told).toEqual(['destroy']);
    expect(rig.hears()).toEqual([]);
    expect(device.connectionCount).toBe(0);
  });

  test('that the guest answers with something else is reset', () => {
    const program = host.open(80)!;
    const [request] = rig.hears();
    rig.sends(OP.data, { sourcePort: 80, targetPort: request!.sourcePort, payload: Buffer.from('x') });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(program.told).toEqual(['destroy']);
  });

  test('has a port of its own each', () => {
    const ports = [1, 2, 3].map(() => rig.accepts().hostPort);
    expect(new Set(ports).size).toBe(3);
  });

  test('is refused where no driver is there', () => {
    rig.driver.status = 0;
    rig.machine.settle();
    expect(host.open(80)).toBeUndefined();
  });

  test('that goes before the guest has answered is reset', () => {
    const program = host.open(80)!;
    expect(rig.ops()).toEqual([OP.request]);
    program.guest!.closed(false);
    expect(rig.ops()).toEqual([OP.reset]);
  });
});

describe('credit', () => {
  test('the guest is told of room again when half of it is used and free', () => {
    rig.connects();
    const payload = new Uint8Array(ROOM_PIECE);
    const told: number[] = [];
    for (let i = 0; i < 8; i++) {
      rig.sends(OP.data, { payload });
      told.push(...rig.hears().map(({ op, forwarded }) => (expect(op).toBe(OP.creditUpdate), forwarded)));
    }
    // A quarter of the room is left each time.
    expect(told).toEqual([4 * ROOM_PIECE, 8 * ROOM_PIECE]);
  });

  test('a program that does not read stops the guest, and what it has sent is kept', () => {
    host.reads = false;
    const program = rig.connects();
    const payload = new Uint8Array(ROOM_PIECE);
    for (let i = 0; i < 4; i++) rig.sends(OP.data, { payload });
    expect(rig.hears()).toEqual([]);
    rig.sends(OP.creditRequest);
    expect(rig.hears()).toMatchObject([{ op: OP.creditUpdate, bufferSize: BUFFER, forwarded: 0 }]);
    program.goOn();
    const [update, ...more] = rig.hears();
    expect(update?.op).toBe(OP.creditUpdate);
    expect(update?.forwarded).toBeGreaterThanOrEqual(BUFFER / 2);
    expect(more).toEqual([]);
    expect(program.received.reduce((sum, { length }) => sum + length, 0)).toBe(4 * ROOM_PIECE);
  });

  test('a byte more than there is room for is a reset', () => {
    host.reads = false;
    const program = rig.connects();
    const payload = new Uint8Array(ROOM_PIECE);
    for (let i = 0; i < 4; i++) rig.sends(OP.data, { payload });
    rig.sends(OP.data, { payload: new Uint8Array(1) });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(program.told).toEqual(['destroy']);
  });

  test('many small packets are handed over in few pieces', () => {
    host.reads = false;
    const program = rig.connects();
    for (let i = 0; i < 2000; i++) rig.sends(OP.data, { payload: Uint8Array.of(i) });
    program.goOn();
    rig.machine.settle();
    expect(program.received).toHaveLength(2);
    expect(Buffer.concat(program.received)).toEqual(
      Buffer.from(Array.from({ length: 2000 }, (_, i) => i & 0xff)),
    );
  });

  test('the guest gets no more than it has room for, and is asked for more once', () => {
    rig.bufferSize = 6;
    const program = rig.connects();
    program.send('0123456789');
    const heard = rig.hears();
    expect(text(heard)).toBe('012345');
    expect(heard.map(({ op }) => op)).toEqual([OP.data, OP.creditRequest]);
    expect(program.asked).toBe(false);
    rig.forwarded = 3;
    rig.sends(OP.creditUpdate);
    expect(text(rig.hears())).toBe('678');
    rig.forwarded = 9;
    rig.sends(OP.creditUpdate);
    expect(rig.hears().map(({ op, payload }) => [op, Buffer.from(payload).toString()])).toEqual([
      [OP.data, '9'],
    ]);
    expect(program.asked).toBe(true);
  });

  test('news that are older than others change nothing', () => {
    rig.bufferSize = 6;
    const program = rig.connects();
    program.send('0123456789ab');
    rig.hears();
    rig.forwarded = 6;
    rig.sends(OP.creditUpdate);
    expect(text(rig.hears())).toBe('6789ab');
    rig.forwarded = 12;
    rig.sends(OP.creditUpdate);
    rig.forwarded = 6;
    rig.sends(OP.creditUpdate);
    program.send('cdef');
    expect(text(rig.hears())).toBe('cdef');
  });

  test('a guest that has taken more than it was sent is reset', () => {
    const program = rig.connects();
    program.send('abc');
    rig.hears();
    rig.sends(OP.creditUpdate, { forwarded: 4 });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(program.told).toEqual(['destroy']);
  });

  test('a guest that shrinks its room below what it has gets nothing', () => {
    const program = rig.connects();
    program.send('abc');
    rig.hears();
    rig.bufferSize = 2;
    rig.sends(OP.creditUpdate);
    program.send('def');
    expect(rig.ops()).toEqual([OP.creditRequest]);
  });

  test('is given back for all that goes through, both ways', () => {
    const program = rig.connects();
    const payload = new Uint8Array(ROOM_PIECE);
    for (let i = 0; i < 64; i++) {
      rig.sends(OP.data, { payload });
      program.send(payload);
      const got = rig.hears().reduce((sum, { length }) => sum + length, 0);
      expect(got).toBe(ROOM_PIECE);
      rig.forwarded += got;
      program.received.length = 0;
    }
  });
});

describe('the end of one direction', () => {
  test('the guest sends no more: the program hears it after the data, and may go on', () => {
    host.reads = false;
    const program = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('last') });
    rig.sends(OP.shutdown, { flags: SEND });
    expect(program.told).toEqual([]);
    program.goOn();
    expect(program.told).toEqual(['end']);
    program.send('answer');
    expect(text(rig.hears())).toBe('answer');
  });

  test('data after that is a reset', () => {
    rig.connects();
    rig.sends(OP.shutdown, { flags: SEND });
    rig.sends(OP.data, { payload: Buffer.from('x') });
    expect(rig.ops()).toEqual([OP.reset]);
  });

  test('the guest receives no more: what the program sends goes nowhere, the guest may go on', () => {
    rig.bufferSize = 0;
    const program = rig.connects();
    program.send('one', 'two');
    rig.sends(OP.shutdown, { flags: RECEIVE });
    rig.bufferSize = ROOM_PIECE;
    rig.sends(OP.data, { payload: Buffer.from('still here') });
    expect(rig.ops()).not.toContain(OP.data);
    expect(program.text).toBe('still here');
    expect(program.asked).toBe(true);
  });

  test('the program sends no more: the guest hears it after the data, and may go on', () => {
    rig.bufferSize = 4;
    const program = rig.connects();
    program.send('abcdef');
    program.finish();
    expect(text(rig.hears())).toBe('abcd');
    rig.forwarded = 4;
    rig.sends(OP.creditUpdate);
    expect(rig.hears()).toMatchObject([{ op: OP.data }, { op: OP.shutdown, flags: SEND }]);
    rig.sends(OP.data, { payload: Buffer.from('answer') });
    expect(program.text).toBe('answer');
  });
});

describe('the end of a connection', () => {
  test('by the guest is agreed to at once, and the program still gets all', () => {
    host.reads = false;
    const program = rig.connects();
    for (const piece of ['one', 'two']) rig.sends(OP.data, { payload: Buffer.from(piece) });
    rig.sends(OP.shutdown, { flags: BOTH });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(device.connectionCount).toBe(0);
    expect(program.told).toEqual([]);
    program.goOn();
    rig.machine.settle();
    expect(program.text).toBe('onetwo');
    expect(program.told).toEqual(['close']);
  });

  test('by the guest, one direction after the other', () => {
    const program = rig.connects();
    rig.sends(OP.shutdown, { flags: RECEIVE });
    rig.sends(OP.shutdown, { flags: SEND });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(program.told).toEqual(['close']);
  });

  test('by a reset of the guest is one for the program', () => {
    host.reads = false;
    const program = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('x') });
    rig.sends(OP.reset);
    expect(program.told).toEqual(['destroy']);
    expect(rig.hears()).toEqual([]);
    expect(device.connectionCount).toBe(0);
  });

  test('by the program is told to the guest, which agrees', () => {
    const program = rig.connects();
    program.send('last');
    program.finish();
    rig.hears();
    program.guest!.closed(false);
    expect(rig.hears()).toMatchObject([{ op: OP.shutdown, flags: BOTH }]);
    rig.sends(OP.reset);
    expect(rig.hears()).toEqual([]);
    expect(device.connectionCount).toBe(0);
  });

  test('from both sides at once is agreed to', () => {
    const program = rig.connects();
    program.guest!.ended();
    program.guest!.closed(false);
    expect(rig.hears()).toMatchObject([{ op: OP.shutdown, flags: BOTH }]);
    rig.sends(OP.shutdown, { flags: BOTH });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(device.connectionCount).toBe(0);
  });

  test('by a program that has not taken all is a reset, after what it has sent', () => {
    host.reads = false;
    rig.bufferSize = 0;
    const program = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('never taken') });
    program.send('last words');
    rig.hears();
    program.guest!.closed(true);
    expect(rig.hears()).toEqual([]);
    rig.bufferSize = 100;
    rig.sends(OP.creditUpdate);
    const heard = rig.hears();
    expect(text(heard)).toBe('last words');
    expect(heard.at(-1)?.op).toBe(OP.reset);
    expect(device.connectionCount).toBe(0);
  });

  test('by a failure is a reset', () => {
    const program = rig.connects();
    program.guest!.closed(true);
    expect(rig.ops()).toEqual([OP.reset]);
  });

  test('leaves its ports for the next one', () => {
    rig.connects();
    rig.sends(OP.shutdown, { flags: BOTH });
    rig.hears();
    const next = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('next') });
    expect(next.text).toBe('next');
  });

  test('the driver that goes away ends them, and the programs still get all', () => {
    host.reads = false;
    const program = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('last') });
    const waiting = host.open(80)!;
    rig.driver.status = 0;
    rig.machine.settle();
    expect(waiting.told).toEqual(['destroy']);
    expect(program.told).toEqual([]);
    program.goOn();
    rig.machine.settle();
    expect(program.text).toBe('last');
    expect(program.told).toEqual(['close']);
    rig.begin();
    expect(rig.hears()).toEqual([]);
    expect(device.connectionCount).toBe(0);
  });
});

describe('a packet that makes no sense', () => {
  test.each<[string, Partial<Packet>]>([
    ['from another address', { sourceCid: CID + 1 }],
    ['from the host', { sourceCid: 2 }],
    ['from an address above 2^32', { sourceCid: 2 ** 32 + CID }],
    ['to another guest', { targetCid: 9 }],
    ['to an address above 2^32', { targetCid: 2 ** 32 + 2 }],
    ['of a type that is not offered', { type: 2 }],
    ['of no type', { type: 0 }],
  ])('%s gets a RST from where it was sent to', (_, fields) => {
    const program = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('forged'), ...fields });
    const { sourceCid = CID, targetCid = 2, type = 1 } = fields;
    expect(rig.hears()).toMatchObject([
      { op: OP.reset, sourceCid: targetCid, targetCid: sourceCid, sourcePort: 52, targetPort: 1000, type },
    ]);
    expect(program.text).toBe('');
    expect(program.told).toEqual([]);
  });

  test.each([0, OP.response, 8, 0xffff])('operation %d on a connection is a reset', (op) => {
    const program = rig.connects();
    rig.sends(op);
    expect(rig.ops()).toEqual([OP.reset]);
    expect(program.told).toEqual(['destroy']);
  });

  test.each([0, OP.response, OP.shutdown, OP.data, OP.creditUpdate, OP.creditRequest, 8])(
    'operation %d without a connection gets a RST',
    (op) => {
      rig.sends(op);
      expect(rig.ops()).toEqual([OP.reset]);
    },
  );

  test('a RST without a connection gets no answer, wherever it is from', () => {
    rig.sends(OP.reset);
    rig.sends(OP.reset, { sourceCid: 99, type: 7 });
    expect(rig.hears()).toEqual([]);
  });

  test.each([
    ['of a connection', true],
    ['of none', false],
  ])('that is shorter than it says, %s, gets a RST', (_, isOfOne) => {
    const program = isOfOne ? rig.connects() : undefined;
    rig.sends(OP.data, { payload: Buffer.from('abc'), length: 4 });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(program?.text ?? '').toBe('');
    expect(lines).toHaveLength(1);
  });

  test('that is longer than it says is as long as it says', () => {
    const program = rig.connects();
    rig.sends(OP.data, { payload: Buffer.from('abcdef'), length: 3 });
    expect(program.text).toBe('abc');
  });

  test('without a whole header is dropped, with one line in the log', () => {
    for (const length of [1, 43, 43]) rig.sendsBytes(rig.packet(OP.request).subarray(0, length));
    expect(rig.hears()).toEqual([]);
    expect(lines).toEqual(['vsock0: the guest sends packets without a whole header']);
  });
});

describe('what the guest can make the device hold', () => {
  test('connections are so many', () => {
    for (let i = 0; i < CONNECTION_LIMIT; i++) rig.connects(52, i);
    rig.sends(OP.request, { sourcePort: CONNECTION_LIMIT });
    expect(rig.ops()).toEqual([OP.reset]);
    expect(host.open(80)).toBeUndefined();
    expect(host.programs.length).toBeLessThanOrEqual(CONNECTION_LIMIT + 1);
    rig.sends(OP.reset, { sourcePort: 5 });
    rig.connects(52, CONNECTION_LIMIT);
    expect(device.connectionCount).toBe(CONNECTION_LIMIT);
  });

  test('the many have less room each', () => {
    for (let i = 0; i < 128; i++) rig.connects(52, i);
    rig.sends(OP.request, { sourcePort: 128 });
    expect(rig.hears()).toMatchObject([{ op: OP.response, bufferSize: 32 * 1024 }]);
  });

  test('a guest that takes no answers is not listened to any more, until it does', () => {
    const rigWithout = make();
    rigWithout.begin({ buffers: 0 });
    const queue = rigWithout.queue(1);
    const [buffer] = queue.place([{ bytes: rigWithout.packet(OP.data) }]);
    const asked = 400;
    let sent = 0;
    const push = (): void => {
      while (sent < asked) {
        queue.chain([buffer!]);
        sent++;
        if (sent % queue.size === 0) break;
      }
      queue.publish();
      rigWithout.driver.notify(1);
      rigWithout.machine.settle();
    };
    let taken = 0;
    for (let i = 0; i < 16; i++) {
      push();
      taken += queue.collect().length;
    }
    expect(taken).toBe(256);
    rigWithout.give(12);
    let answers = 0;
    for (let i = 0; i < 40; i++) {
      answers += rigWithout.hears().length;
      taken += queue.collect().length;
    }
    expect(answers).toBe(taken);
    expect(taken).toBe(sent);
  });

  test('a connection that is not answered to in time is reset', () => {
    vi.useFakeTimers();
    try {
      const program = host.open(80)!;
      rig.hears();
      vi.advanceTimersByTime(9_000);
      expect(program.told).toEqual([]);
      vi.advanceTimersByTime(3_000);
      expect(program.told).toEqual(['destroy']);
      expect(rig.ops()).toEqual([OP.reset]);
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('buffers of the guest', () => {
  test('take what is longer in several packets', () => {
    rig = make();
    rig.begin({ buffers: 8, size: HEADER + 3 });
    const program = rig.connects();
    program.send('abcdefgh');
    expect(rig.hears().map(({ payload }) => Buffer.from(payload).toString())).toEqual(['abc', 'def', 'gh']);
  });

  test('that are too small are given back, with one line in the log', () => {
    rig = make();
    rig.begin({ buffers: 0 });
    rig.give(2, HEADER - 1);
    rig.give(2);
    rig.sends(OP.creditUpdate);
    expect(rig.ops()).toEqual([OP.reset]);
    expect(lines).toEqual(['vsock0: the guest gives buffers that are too small for a packet']);
  });

  test('are shared between connections', () => {
    rig = make();
    rig.begin({ buffers: 2, size: HEADER + 16 });
    const programs = [1, 2, 3].map((port) => rig.connects(52, port));
    for (const program of programs) program.send(new Uint8Array(16 * 100));
    const ports = rig.hears().map(({ targetPort }) => targetPort);
    // Nobody waits until another one has sent all.
    expect(new Set(ports.slice(0, 30)).size).toBe(3);
    expect(ports).toHaveLength(300);
  });
});

describe('a machine that is saved and restored', () => {
  test('tells the driver that its connections are gone', async () => {
    rig.connects();
    await rig.core.pause();
    const state: unknown = JSON.parse(JSON.stringify(rig.save()));
    const memory = rig.machine.memory;
    const other = new FakeHost();
    const restored = new VsockDevice({ name: 'vsock0', cid: 9, backend: other });
    const after = new Rig(restored, { transport: 'pci', memory: 'one window' }, new FakeMachine(memory));
    after.restore(state);
    after.queues = rig.queues;
    after.core.resume();
    const events = rig.queue(2);
    events.chain(events.place([{ room: 8 }]));
    events.publish();
    after.driver.notify(2);
    after.machine.settle();
    const [used] = events.collect();
    expect(used?.written).toBe(4);
    expect([...events.reply(used!.buffers)].slice(0, 4)).toEqual([0, 0, 0, 0]);
    expect(after.driver.readConfig(0, 4)).toBe(9);
    expect(restored.connectionCount).toBe(0);
  });

  test('goes on with its connections where it was only paused', async () => {
    const program = rig.connects();
    await rig.core.pause();
    program.send('meanwhile');
    rig.machine.settle();
    expect(rig.queue(0).hasUsed).toBe(false);
    rig.core.save();
    rig.core.resume();
    expect(text(rig.hears())).toBe('meanwhile');
  });
});

test('over virtio-mmio', () => {
  rig = make('mmio');
  rig.begin();
  const program = rig.connects();
  rig.sends(OP.data, { payload: Buffer.from('question') });
  program.send('answer');
  expect([program.text, text(rig.hears())]).toEqual(['question', 'answer']);
});
