import { describe, expect, test } from 'vitest';
import { CONSOLE_F, ConsoleDevice } from '../../../../src/devices/console/device.ts';
import { Rig } from '../../../support/virtio/rig.ts';
import { ConsoleRig, Host } from './support.ts';

const plain = (backend = new Host()) => new ConsoleDevice({ name: 'c', ports: [{ console: true, backend }] });
const named = { name: 'a', backend: new Host() };

describe('features and configuration', () => {
  test('a single console without a name is offered without MULTIPORT', () => {
    const { features, queueSizes } = plain();
    expect([features.low, features.high]).toEqual([(1 << CONSOLE_F.size) | (1 << CONSOLE_F.emergWrite), 0]);
    expect(queueSizes).toHaveLength(2);
  });

  test('a console beside named ports is offered with SIZE, MULTIPORT and EMERG_WRITE, and queues for all', () => {
    const device = new ConsoleDevice({
      name: 'c',
      ports: [named, { console: true, backend: new Host() }, { name: 'b', backend: new Host() }],
    });
    expect(device.features.low).toBe(7);
    // three pairs of ports and one of control queues
    expect(device.queueSizes).toHaveLength(8);
    expect(device.config.get('maxNrPorts')).toBe(3);
  });

  test('named ports alone leave port 0 out, and offer nothing of a console', () => {
    const device = new ConsoleDevice({ name: 'c', ports: [named] });
    expect(device.features.low).toBe(1 << CONSOLE_F.multiport);
    expect(device.config.get('maxNrPorts')).toBe(2);
  });

  test('the configuration space has columns, rows, ports and the emergency register in their places', () => {
    const rig = new Rig(
      new ConsoleDevice({
        name: 'c',
        ports: [{ console: true, backend: new Host() }, named],
        size: { columns: 0x123, rows: 0x45 },
      }),
      { transport: 'mmio', memory: 'one window' },
    );
    expect(rig.driver.readConfig(0, 2)).toBe(0x123);
    expect(rig.driver.readConfig(2, 2)).toBe(0x45);
    expect(rig.driver.readConfig(4, 4)).toBe(2);
    expect(rig.driver.readConfig(8, 4)).toBe(0);
  });

  test.each([
    ['no port', []],
    ['31 ports', Array.from({ length: 31 }, (_, i) => ({ name: `p${i}`, backend: new Host() }))],
    ['a name twice', [named, named]],
    ['neither a name nor a console', [{ backend: new Host() }]],
    ['a slash in a name', [{ name: 'a/b', backend: new Host() }]],
    ['the name ..', [{ name: '..', backend: new Host() }]],
    ['an empty name', [{ name: '', backend: new Host() }]],
    ['a name of 65 characters', [{ name: 'x'.repeat(65), backend: new Host() }]],
  ])('%s is refused', (_, ports) => {
    expect(() => new ConsoleDevice({ name: 'c', ports })).toThrow(RangeError);
  });

  test.each([
    [0, 24],
    [80, 65536],
    [80.5, 24],
    [NaN, 24],
  ])('a terminal of %d by %d is refused', (columns, rows) => {
    expect(() => plain().resize(columns, rows)).toThrow(/a terminal has 1 to 65535/);
  });
});

describe('a plain console', () => {
  test.each(['mmio', 'pci'] as const)('passes bytes both ways over %s', (transport) => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host), transport);
    rig.start();
    rig.write(0, 'hello ', 'host');
    expect(host.text).toBe('hello host');
    void host.guest!.input(Buffer.from('hello guest'));
    rig.giveBuffers(0, 1, 5);
    expect(rig.read(0)).toBe('hello');
    rig.giveBuffers(0, 2, 64);
    expect(rig.read(0)).toBe(' guest');
  });

  test('is open to the guest from DRIVER_OK until the reset', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    expect(host.guest!.guestOpen).toBe(false);
    rig.start();
    rig.driver.status = 0;
    rig.machine.settle();
    expect(host.opened).toEqual([true, false]);
  });

  test('shows a resize in its configuration', () => {
    const device = plain();
    const rig = new ConsoleRig(device);
    rig.start();
    rig.driver.interrupts();
    device.resize(132, 43);
    expect(rig.driver.interrupts().config).toBe(true);
    expect([rig.driver.readConfig(0, 2), rig.driver.readConfig(2, 2)]).toEqual([132, 43]);
  });

  test('takes characters written to emerg_wr before any negotiation', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    for (const character of Buffer.from('panic')) rig.driver.writeConfig(8, 4, 0xffff_ff00 | character);
    rig.machine.settle();
    expect(host.text).toBe('panic');
  });

  test('takes MULTIPORT queues from a driver that does not accept MULTIPORT for unused', () => {
    const host = new Host();
    const device = new ConsoleDevice({ name: 'c', ports: [{ console: true, backend: host }, named] });
    const rig = new ConsoleRig(device);
    rig.driver.status = 0;
    rig.driver.status = 1;
    rig.driver.status = 3;
    rig.driver.acceptFeatures(0, 1 << CONSOLE_F.size);
    rig.driver.acceptFeatures(1, 1);
    rig.driver.status = 0x0b;
    rig.queues = device.queueSizes.map((_, index) => rig.setUpQueue(index));
    rig.driver.status = 0x0f;
    rig.write(0, 'console');
    rig.giveControlBuffers(1);
    // DEVICE_READY
    rig.send(rig.queue(3), [{ bytes: Uint8Array.of(0, 0, 0, 0, 0, 0, 1, 0) }]);
    rig.machine.settle();
    expect(host.text).toBe('console');
    expect(rig.queue(2).hasUsed).toBe(false);
    expect(rig.queue(3).hasUsed).toBe(false);
    expect(rig.driver.status).toBe(0x0f);
  });
});

describe('input', () => {
  test('resolves once the guest has taken all of it', async () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start();
    let taken = false;
    void host.guest!.input(Buffer.from('0123456789')).then(() => (taken = true));
    rig.giveBuffers(0, 1, 9);
    await new Promise(setImmediate);
    expect(taken).toBe(false);
    rig.giveBuffers(0, 1, 9);
    await new Promise(setImmediate);
    expect(taken).toBe(true);
  });

  test('is bounded: more than there is room for is refused, all of it', async () => {
    const host = new Host();
    new ConsoleRig(plain(host)).start();
    const { inputRoom } = host.guest!;
    void host.guest!.input(new Uint8Array(inputRoom));
    await expect(host.guest!.input(Uint8Array.of(1))).rejects.toThrow(RangeError);
    expect(host.guest!.inputRoom).toBe(0);
  });

  test('waits over a reset for the next driver', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start();
    void host.guest!.input(Buffer.from('early'));
    rig.driver.status = 0;
    rig.start();
    rig.giveBuffers(0, 1);
    expect(rig.read(0)).toBe('early');
  });

  test('that is withdrawn is rejected and never comes', async () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start();
    const input = host.guest!.input(Buffer.from('no'));
    host.guest!.withdrawInput();
    await expect(input).rejects.toThrow(/withdrawn/);
    rig.giveBuffers(0, 1);
    expect(rig.read(0)).toBe('');
  });

  test('is rejected when the device goes away, and the backend is disconnected', async () => {
    const host = new Host();
    const device = plain(host);
    const { guest } = host;
    const input = guest!.input(Buffer.from('no'));
    device.close();
    await expect(input).rejects.toThrow(/gone/);
    await expect(guest!.input(Buffer.from('no'))).rejects.toThrow(/gone/);
    expect(host.guest).toBeUndefined();
  });

  test('skips buffers that the device may not write to', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start();
    rig.queue(0).chain(rig.queue(0).place([{ bytes: new Uint8Array(8) }]));
    rig.giveBuffers(0, 1);
    void host.guest!.input(Buffer.from('x'));
    rig.machine.settle();
    expect(
      rig
        .queue(0)
        .collect()
        .map(({ written }) => written),
    ).toEqual([0, 1]);
  });
});

describe('the host holds output back', () => {
  test('by leaving requests in the queue, and gets the rest in order once it takes more', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start();
    host.room = 2;
    rig.write(0, 'one ', 'two ', 'three ', 'four');
    expect(host.text).toBe('one two ');
    expect(rig.queue(1).deviceIndex).toBe(2);
    host.takeMore(1);
    expect(host.text).toBe('one two three ');
    host.takeMore();
    expect(host.text).toBe('one two three four');
    rig.machine.settle();
    expect(rig.queue(1).deviceIndex).toBe(4);
  });

  test('in the middle of a request, which stays in flight', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start();
    host.room = 1;
    const bytes = Uint8Array.from({ length: 200_000 }, (_, i) => i % 251);
    rig.write(0, bytes);
    expect(host.length).toBe(32768);
    expect(rig.queue(1).hasUsed).toBe(false);
    host.takeMore();
    rig.machine.settle();
    expect(Buffer.compare(Buffer.concat(host.pieces), bytes)).toBe(0);
    expect(rig.queue(1).hasUsed).toBe(true);
  });

  test('and requests that come meanwhile cost nothing but their place in the queue', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start({ queueSize: 64 });
    host.room = 1;
    rig.write(0, 'first');
    for (let i = 0; i < 63; i++) rig.write(0, 'x');
    for (let i = 0; i < 100; i++) rig.driver.notify(1);
    rig.machine.settle();
    expect(host.pieces).toHaveLength(1);
    host.takeMore();
    rig.machine.settle();
    expect(host.length).toBe(5 + 63);
  });

  test('while resume is called from within output, without losing its place', () => {
    const host = new Host();
    const device = new ConsoleDevice({
      name: 'c',
      ports: [
        {
          console: true,
          backend: {
            connect: (guest) => host.connect(guest),
            output: (bytes) => {
              host.guest?.resumeOutput();
              return host.output(bytes);
            },
          },
        },
      ],
    });
    const rig = new ConsoleRig(device);
    rig.start();
    rig.write(0, 'a', 'b', 'c');
    expect(host.text).toBe('abc');
  });

  test('over a reset: the driver before is forgotten, the next one is served', () => {
    const host = new Host();
    const rig = new ConsoleRig(plain(host));
    rig.start();
    host.room = 1;
    rig.write(0, 'old', 'lost');
    rig.driver.status = 0;
    rig.start();
    rig.write(0, 'new');
    expect(host.text).toBe('old');
    host.takeMore();
    rig.machine.settle();
    expect(host.text).toBe('oldnew');
  });
});

describe('a request of thirty megabytes', () => {
  test('goes through in pieces, with turns for others between them', { timeout: 60_000 }, () => {
    let length = 0;
    let largest = 0;
    let turns = 0;
    const device = new ConsoleDevice({
      name: 'c',
      ports: [
        {
          console: true,
          backend: {
            connect: () => undefined,
            output: (bytes) => {
              length += bytes.length;
              largest = Math.max(largest, bytes.length);
              return true;
            },
          },
        },
      ],
      defer: (callback) => {
        turns++;
        setImmediate(callback);
      },
    });
    const rig = new ConsoleRig(device);
    rig.start({ queueSize: 64 });
    const queue = rig.queue(1);
    // the same half megabyte of RAM over and over
    queue.chain(Array.from({ length: 60 }, () => ({ address: 0, length: 0x80000, writable: false })));
    queue.publish();
    rig.driver.notify(1);
    return rig.machine
      .until(() => queue.hasUsed)
      .then(() => {
        expect(length).toBe(60 * 0x80000);
        expect(largest).toBe(32768);
        expect(turns).toBeGreaterThanOrEqual(29);
      });
  });
});
