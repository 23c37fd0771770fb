import { describe, expect, test } from 'vitest';
import { ConsoleDevice, type ConsoleSize } from '../../../../src/devices/console/device.ts';
import { FakeMachine, sameBytes } from '../../../support/virtio/machine.ts';
import { ConsoleRig, Host } from './support.ts';

const EVENT = { deviceReady: 0, add: 1, remove: 2, ready: 3, console: 4, resize: 5, open: 6, name: 7 };

function make(options: { size?: ConsoleSize } = {}) {
  const hosts = { console: new Host(), a: new Host(), b: new Host() };
  const lines: string[] = [];
  const device = new ConsoleDevice({
    name: 'console0',
    ports: [
      { name: 'org.example.a', backend: hosts.a },
      { console: true, backend: hosts.console },
      { name: 'org.example.b', backend: hosts.b },
    ],
    log: (line) => lines.push(line),
    ...options,
  });
  return { device, hosts, lines, rig: new ConsoleRig(device) };
}

/** With all ports announced, set up and opened by the guest. */
async function opened(options: { size?: ConsoleSize } = {}) {
  const made = make(options);
  await made.rig.startMultiport();
  for (const port of [0, 1, 2]) await made.rig.control(port, EVENT.ready, 1);
  for (const port of [0, 1, 2]) await made.rig.control(port, EVENT.open, 1);
  made.rig.messages();
  return made;
}

describe('control messages', () => {
  test('announce each port once the driver is ready, consoles first', async () => {
    const { rig } = make();
    await rig.startMultiport();
    expect(rig.messages().map(({ port, event, value }) => [port, event, value])).toEqual([
      [0, EVENT.add, 1],
      [1, EVENT.add, 1],
      [2, EVENT.add, 1],
    ]);
  });

  test('tell a console that it is one, its size, and that it is open', async () => {
    const { rig } = make({ size: { columns: 0x1234, rows: 0x56 } });
    await rig.startMultiport();
    rig.messages();
    await rig.control(0, EVENT.ready, 1);
    const messages = rig.messages();
    expect(messages.map(({ event, value }) => [event, value])).toEqual([
      [EVENT.console, 1],
      [EVENT.resize, 0],
      [EVENT.open, 1],
    ]);
    // columns, then rows, little-endian (VIRTIO 1.2, 5.3.6.2)
    expect([...messages[1]!.rest]).toEqual([0x34, 0x12, 0x56, 0]);
  });

  test('tell a named port its name without a NUL, and nothing of an open host', async () => {
    const { rig } = make();
    await rig.startMultiport();
    rig.messages();
    await rig.control(2, EVENT.ready, 1);
    const [message, ...others] = rig.messages();
    expect(message).toMatchObject({ port: 2, event: EVENT.name, value: 1 });
    expect(Buffer.from(message!.rest).toString()).toBe('org.example.b');
    expect(others).toEqual([]);
  });

  test('of a console whose size is not known say nothing of it', async () => {
    const { rig } = make();
    await rig.startMultiport();
    rig.messages();
    await rig.control(0, EVENT.ready, 1);
    expect(rig.messages().map(({ event }) => event)).toEqual([EVENT.console, EVENT.open]);
  });

  test('wait for buffers', async () => {
    const { rig } = make();
    await rig.startMultiport({ buffers: 0 });
    expect(rig.queue(2).hasUsed).toBe(false);
    rig.giveControlBuffers(1);
    expect(rig.queue(2).deviceIndex).toBe(1);
    rig.giveControlBuffers(4);
    expect(rig.messages()).toHaveLength(3);
  });

  test('tell of a host that comes and goes', async () => {
    const { rig, hosts } = await opened();
    hosts.a.guest!.setHostOpen(true);
    expect(rig.messages()).toMatchObject([{ port: 1, event: EVENT.open, value: 1 }]);
    hosts.a.guest!.setHostOpen(false);
    hosts.a.guest!.setHostOpen(false);
    expect(rig.messages()).toMatchObject([{ port: 1, event: EVENT.open, value: 0 }]);
  });

  test('tell of a host that was there before the driver', async () => {
    const { rig, hosts } = make();
    hosts.a.guest!.setHostOpen(true);
    await rig.startMultiport();
    rig.messages();
    await rig.control(1, EVENT.ready, 1);
    expect(rig.messages().map(({ event }) => event)).toEqual([EVENT.name, EVENT.open]);
  });

  test('show another host at a port as closed and opened again', async () => {
    const { rig, hosts } = await opened();
    hosts.a.guest!.setHostOpen(true);
    rig.messages();
    // the driver gives no buffers for a while
    const empty = make();
    await empty.rig.startMultiport({ buffers: 3 });
    empty.rig.queue(2).collect();
    await empty.rig.control(1, EVENT.ready, 1);
    for (const open of [true, false, true, false, true]) empty.hosts.a.guest!.setHostOpen(open);
    empty.rig.giveControlBuffers(8);
    expect(empty.rig.messages().map(({ event, value }) => [event, value])).toEqual([
      [EVENT.name, 1],
      [EVENT.open, 1],
    ]);
    for (const open of [false, true, false, true]) hosts.a.guest!.setHostOpen(open);
    expect(rig.messages().map(({ value }) => value)).toEqual([0, 1, 0, 1]);
  });

  test('tell of a new size, and the configuration does too', async () => {
    const { rig, device } = await opened();
    rig.driver.interrupts();
    device.resize(100, 30);
    const [message] = rig.messages();
    expect(message).toMatchObject({ port: 0, event: EVENT.resize });
    expect([...message!.rest]).toEqual([100, 0, 30, 0]);
    expect(rig.driver.readConfig(0, 2)).toBe(100);
  });

  test('hold the newest size alone where the driver gives no buffers', async () => {
    const { rig, device } = await opened();
    while (rig.queue(2).collect().length > 0);
    const fresh = make();
    await fresh.rig.startMultiport({ buffers: 3 });
    fresh.rig.queue(2).collect();
    await fresh.rig.control(0, EVENT.ready, 1);
    for (let i = 1; i <= 1000; i++) fresh.device.resize(i, i);
    fresh.rig.giveControlBuffers(8);
    const sizes = fresh.rig.messages().filter(({ event }) => event === EVENT.resize);
    expect(sizes.map(({ rest }) => [...rest])).toEqual([[0xe8, 3, 0xe8, 3]]);
    expect(device.config.get('cols')).toBe(0);
  });

  test('remove a port that is unplugged and announce it when it is back', async () => {
    const { rig, device, hosts } = await opened();
    hosts.a.guest!.setHostOpen(true);
    rig.messages();
    device.unplug('org.example.a');
    device.unplug('org.example.a');
    expect(rig.messages()).toMatchObject([{ port: 1, event: EVENT.remove }]);
    expect(hosts.a.opened.at(-1)).toBe(false);
    await rig.control(1, EVENT.ready, 1);
    await rig.control(1, EVENT.open, 1);
    expect(rig.messages()).toEqual([]);
    expect(hosts.a.opened.at(-1)).toBe(false);
    rig.write(1, 'to nobody');
    expect(hosts.a.text).toBe('');
    expect(rig.transmitQueue(1).hasUsed).toBe(true);
    device.plug('org.example.a');
    await rig.control(1, EVENT.ready, 1);
    expect(rig.messages().map(({ event }) => event)).toEqual([EVENT.add, EVENT.name, EVENT.open]);
    expect(() => device.unplug('org.example.c')).toThrow(RangeError);
  });
});

describe('a hostile driver', () => {
  test.each([
    ['a port that does not exist', 3, EVENT.ready],
    ['port 2^32 - 1', 0xffff_ffff, EVENT.open],
    ['an event that does not exist', 0, 99],
    ['an event that only devices send', 0, EVENT.remove],
  ])('sends a message about %s: it is ignored', async (_, port, event) => {
    const { rig, hosts } = make();
    await rig.startMultiport();
    rig.messages();
    await rig.control(port, event, 1);
    expect(rig.messages()).toEqual([]);
    expect(rig.driver.status).toBe(0x0f);
    expect(hosts.console.opened).toEqual([]);
  });

  test('sends messages that are too short or have no bytes: they are used up and ignored', async () => {
    const { rig } = make();
    await rig.startMultiport();
    rig.messages();
    await rig.ask(rig.queue(3), [{ bytes: Uint8Array.of(0, 0, 0, 0, 3, 0, 1) }]);
    await rig.ask(rig.queue(3), [{ room: 16 }]);
    expect(rig.messages()).toEqual([]);
  });

  test('floods the control queue without giving buffers: what waits stays bounded', async () => {
    const { rig, device } = make({ size: { columns: 80, rows: 24 } });
    await rig.startMultiport({ buffers: 0 });
    for (let i = 0; i < 2000; i++) {
      await rig.control(i % 3, EVENT.ready, 1);
      if (i % 10 === 0) await rig.control(0, EVENT.deviceReady, 1);
      rig.buffers.clear();
    }
    await rig.core.pause();
    expect((device.save().outbox as unknown[]).length).toBeLessThanOrEqual(3 * 7);
    rig.core.resume();
    rig.giveControlBuffers(16);
    expect(rig.messages().length).toBeLessThanOrEqual(3 * 7);
  });

  test('gives control buffers that are too small: it misses the message, and the log says so once', async () => {
    const { rig, lines } = make();
    rig.start();
    rig.giveControlBuffers(2, 7);
    rig.giveControlBuffers(2, 8);
    await rig.control(0, EVENT.deviceReady, 1);
    expect(rig.messages()).toMatchObject([{ port: 2, event: EVENT.add }]);
    expect(lines).toEqual([
      'console0: the guest gives control buffers that are too small, and misses messages',
    ]);
  });

  test('reports failures over and over: the log has each once', async () => {
    const { rig, lines } = make();
    await rig.startMultiport();
    for (let i = 0; i < 5; i++) {
      await rig.control(1, EVENT.ready, 0);
      await rig.control(0, EVENT.deviceReady, 0);
    }
    expect(lines).toEqual([
      'console0: the guest could not set port org.example.a up',
      'console0: the guest could not set the device up',
    ]);
  });
});

describe('named ports', () => {
  test('pass bytes both ways, each its own', async () => {
    const { rig, hosts } = await opened();
    hosts.a.guest!.setHostOpen(true);
    hosts.b.guest!.setHostOpen(true);
    rig.write(1, 'from a');
    rig.write(2, 'from b');
    expect([hosts.a.text, hosts.b.text, hosts.console.text]).toEqual(['from a', 'from b', '']);
    rig.giveBuffers(1, 1);
    rig.giveBuffers(2, 1);
    void hosts.a.guest!.input(Buffer.from('to a'));
    void hosts.b.guest!.input(Buffer.from('to b'));
    expect([rig.read(1), rig.read(2)]).toEqual(['to a', 'to b']);
  });

  test('drop what the guest sends while nobody is at the host’s end', async () => {
    const { rig, hosts } = await opened();
    rig.write(1, 'lost');
    expect(rig.transmitQueue(1).hasUsed).toBe(true);
    hosts.a.guest!.setHostOpen(true);
    rig.write(1, 'heard');
    expect(hosts.a.text).toBe('heard');
  });

  test('drop what waits when the host closes, and free the guest’s requests', async () => {
    const { rig, hosts } = await opened();
    hosts.a.guest!.setHostOpen(true);
    hosts.a.room = 1;
    rig.write(1, 'one', 'two', 'three');
    expect(rig.transmitQueue(1).deviceIndex).toBe(1);
    hosts.a.guest!.setHostOpen(false);
    rig.machine.settle();
    expect(rig.transmitQueue(1).deviceIndex).toBe(3);
    hosts.a.room = Infinity;
    hosts.a.guest!.setHostOpen(true);
    rig.write(1, 'four');
    expect(hosts.a.text).toBe('onefour');
  });

  test('give input to a guest program only once it has opened the port', async () => {
    const { rig, hosts } = make();
    await rig.startMultiport();
    await rig.control(1, EVENT.ready, 1);
    rig.giveBuffers(1, 1);
    void hosts.a.guest!.input(Buffer.from('x'));
    expect(rig.read(1)).toBe('');
    await rig.control(1, EVENT.open, 1);
    expect(rig.read(1)).toBe('x');
  });

  test('tell the backend who comes and goes in the guest, and of a reset', async () => {
    const { rig, hosts } = await opened();
    await rig.control(1, EVENT.open, 0);
    await rig.control(1, EVENT.open, 1);
    rig.driver.status = 0;
    rig.machine.settle();
    expect(hosts.a.opened).toEqual([true, false, true, false]);
  });

  test('a stalled one does not hold up the others', async () => {
    const { rig, hosts } = await opened();
    hosts.a.guest!.setHostOpen(true);
    hosts.b.guest!.setHostOpen(true);
    hosts.a.room = 1;
    rig.write(1, 'a', 'a', 'a');
    rig.write(2, 'b');
    rig.write(0, 'console');
    expect([hosts.a.text, hosts.b.text, hosts.console.text]).toEqual(['a', 'b', 'console']);
  });
});

describe('pause', () => {
  test('leaves the queues alone whatever the host does, and all of it is done afterwards', async () => {
    const { rig, hosts, device } = await opened();
    hosts.a.guest!.setHostOpen(true);
    rig.messages();
    rig.giveBuffers(1, 2);
    hosts.a.room = 1;
    rig.write(1, 'one', 'two');
    await rig.core.pause();
    const before = rig.machine.snapshot();
    hosts.a.takeMore();
    void hosts.a.guest!.input(Buffer.from('in'));
    hosts.b.guest!.setHostOpen(true);
    device.resize(90, 30);
    rig.machine.settle();
    expect(sameBytes(rig.machine.snapshot(), before)).toBe(true);
    rig.core.resume();
    rig.machine.settle();
    expect(hosts.a.text).toBe('onetwo');
    expect(rig.read(1)).toBe('in');
    expect(rig.messages().map(({ port, event }) => [port, event])).toEqual([
      [2, EVENT.open],
      [0, EVENT.resize],
    ]);
  });

  test('during which another host takes over gives it nothing of what was meant for the one before', async () => {
    const { rig, hosts } = await opened();
    const end = hosts.a.guest!;
    end.setHostOpen(true);
    hosts.a.room = 1;
    rig.write(1, 'taken', 'waits', 'waits');
    await rig.core.pause();
    end.setHostOpen(false);
    end.setHostOpen(true);
    hosts.a.room = Infinity;
    rig.core.resume();
    rig.machine.settle();
    rig.write(1, '!');
    expect(hosts.a.text).toBe('taken!');
  });
});

describe('save and restore', () => {
  /** The same machine in another process, with what the host has there. */
  async function moved(
    from: Awaited<ReturnType<typeof opened>>,
    prepare: (to: ReturnType<typeof make>) => void = () => undefined,
    options: { size?: ConsoleSize } = {},
  ) {
    await from.rig.core.pause();
    const state = JSON.parse(JSON.stringify(from.rig.save())) as unknown;
    const machine = new FakeMachine('one window');
    from.rig.machine.memory.ranges.forEach(({ base }, i) =>
      machine.memory.write(base, from.rig.machine.snapshot()[i]!),
    );
    const made = make(options);
    const to = { ...made, rig: new ConsoleRig(made.device, 'pci', machine) };
    prepare(to);
    to.rig.restore(state);
    to.rig.core.resume();
    // the same driver's rings, in the other memory
    to.rig.queues = from.rig.queues.map((queue, index) => {
      const copy = from.rig.queue(index);
      return queue && Object.assign(reading(copy, machine), {});
    });
    machine.settle();
    return to;
  }

  /** What of a driver's queue can be seen in other memory: the index that the device has published. */
  const reading = (queue: ReturnType<ConsoleRig['queue']>, machine: FakeMachine) =>
    Object.create(queue, {
      deviceIndex: { get: () => machine.memory.readU16(queue.at.device + 2) },
    }) as typeof queue;

  test('a request that was in the middle goes on where it was', async () => {
    const from = await opened();
    from.hosts.a.guest!.setHostOpen(true);
    from.hosts.a.room = 1;
    const bytes = Uint8Array.from({ length: 150_000 }, (_, i) => i % 251);
    from.rig.write(1, bytes, 'after');
    expect(from.hosts.a.length).toBe(32768);
    const to = await moved(from, ({ hosts }) => hosts.a.guest!.setHostOpen(true));
    const seen = Buffer.concat([...from.hosts.a.pieces, ...to.hosts.a.pieces]);
    expect(Buffer.compare(seen, Buffer.concat([bytes, Buffer.from('after')]))).toBe(0);
    expect(to.rig.transmitQueue(1).deviceIndex).toBe(2);
  });

  test('saved once more before it went on, it still is where it was', async () => {
    const from = await opened();
    from.hosts.a.guest!.setHostOpen(true);
    from.hosts.a.room = 1;
    from.rig.write(1, new Uint8Array(150_000));
    await from.rig.core.pause();
    const { device } = make();
    device.restore(from.device.save());
    expect(device.save().ports[1]!.partial).toEqual(from.device.save().ports[1]!.partial);
    expect(device.save().ports[1]!.partial!.offset).toBe(32768);
  });

  test('the guest keeps its ports open', async () => {
    const to = await moved(await opened());
    expect(to.hosts.a.opened).toEqual([true]);
    expect(to.hosts.a.guest!.guestOpen).toBe(true);
  });

  test('the guest hears where the host’s end is not as it was, and only there', async () => {
    const from = await opened();
    from.hosts.a.guest!.setHostOpen(true);
    from.hosts.b.guest!.setHostOpen(true);
    from.rig.messages();
    const used = from.rig.queue(2).deviceIndex;
    const to = await moved(from, ({ hosts }) => hosts.b.guest!.setHostOpen(true));
    expect(to.rig.queue(2).deviceIndex - used).toBe(1);
    await to.rig.core.pause();
    expect(to.device.save().ports.map(({ hostOpen }) => hostOpen)).toEqual([true, false, true]);
  });

  test('messages that waited for buffers still wait', async () => {
    const from = make();
    await from.rig.startMultiport({ buffers: 0 });
    const to = await moved(from);
    await to.rig.core.pause();
    expect(to.device.save().outbox.map(({ port, event }) => [port, event])).toEqual([
      [0, EVENT.add],
      [1, EVENT.add],
      [2, EVENT.add],
    ]);
  });

  test('a terminal of another size is told after the restore', async () => {
    const from = await opened({ size: { columns: 80, rows: 24 } });
    const used = from.rig.queue(2).deviceIndex;
    const to = await moved(from, () => undefined, { size: { columns: 100, rows: 40 } });
    expect(to.rig.queue(2).deviceIndex - used).toBe(1);
    expect(to.rig.driver.interrupts().config).toBe(true);
  });

  test('a size that only the guest knows is kept', async () => {
    const to = await moved(await opened({ size: { columns: 80, rows: 24 } }));
    expect(to.device.config.get('cols')).toBe(80);
  });

  test.each([
    ['a port too few', { ports: [] }],
    ['a message about a port that is not there', { outbox: [{ port: 3, event: 1, value: 1 }] }],
    ['a message that only drivers send', { outbox: [{ port: 0, event: 0, value: 1 }] }],
    ['a size that does not fit', { columns: 65536 }],
    ['a member that is not known', { extra: 1 }],
  ])('a state with %s is refused', (_, damage) => {
    const { device } = make();
    const before = device.save();
    expect(() => device.restore({ ...before, ...damage })).toThrow(/state of console0/);
    expect(device.save()).toEqual(before);
  });
});
