import { describe, expect, test } from 'vitest';
import type { Activation, VirtioDevice } from '../../../src/virtio/device.ts';
import { Features } from '../../../src/virtio/features.ts';
import { isReachable, statusStep } from '../../../src/virtio/status.ts';
import { VirtioCore, type TransportHooks } from '../../../src/virtio/transport.ts';
import { EchoDevice } from '../../support/virtio/devices.ts';
import { FakeMachine } from '../../support/virtio/machine.ts';
import { Rig } from '../../support/virtio/rig.ts';

const pci = { transport: 'pci', memory: 'one window' } as const;

class Failing extends EchoDevice {
  readonly #where: 'activate' | 'notified' | 'needsReset';

  constructor(where: 'activate' | 'notified' | 'needsReset') {
    super();
    this.#where = where;
  }

  override activate(activation: Activation): void {
    super.activate(activation);
    if (this.#where === 'activate') throw new Error('no host resource');
    if (this.#where === 'needsReset') activation.needsReset('the host file is gone');
  }

  override notified(): void {
    throw new Error('out of luck');
  }
}

describe('a device that fails', () => {
  test.each(['activate', 'notified', 'needsReset'] as const)(
    'in %s needs a reset, and the log says why',
    (where) => {
      const rig = new Rig(new Failing(where), pci);
      rig.start();
      expect(rig.driver.status).toBe(0x4f);
      expect(rig.driver.interrupts().config).toBe(true);
      expect(rig.machine.reports).toEqual([
        expect.stringMatching(/^echo0: needs a reset: (no host resource|out of luck|the host file is gone)$/),
      ]);
    },
  );

  test('to reset is reset all the same', async () => {
    const device = new EchoDevice();
    device.reset = () => Promise.reject(new Error('stuck'));
    const rig = new Rig(device, pci);
    rig.start();
    rig.driver.status = 0;
    await rig.machine.until(() => rig.driver.status === 0);
    expect(rig.machine.reports).toEqual(['echo0: failed to reset: stuck']);
  });
});

describe('a reset that takes time', () => {
  test('shows the old status, and takes no other write, until it is done', async () => {
    const device = new EchoDevice();
    let done = (): void => undefined;
    device.reset = () => new Promise((resolve) => (done = resolve));
    const rig = new Rig(device, pci);
    rig.start();
    rig.driver.status = 0;
    expect(rig.driver.status).toBe(0x0f);
    rig.driver.status = 1;
    rig.driver.status = 0;
    expect(rig.driver.status).toBe(0x0f);
    done();
    await rig.machine.until(() => rig.driver.status === 0);
    rig.driver.status = 1;
    expect(rig.driver.status).toBe(1);
  });

  test('is told to the device once, with its signal aborted and its queues ended', () => {
    const device = new EchoDevice();
    const rig = new Rig(device, pci);
    rig.start();
    const activation = device.activation!;
    let resets = 0;
    device.reset = () => {
      resets++;
      return undefined;
    };
    rig.driver.status = 0;
    expect(rig.driver.status).toBe(0);
    rig.driver.status = 0;
    expect(rig.driver.status).toBe(0);
    expect(resets).toBe(1);
    expect(activation.signal.aborted).toBe(true);
    expect(activation.queues.map((queue) => queue?.ended)).toEqual([true, true]);
  });

  test('makes needsReset of the activation before it say nothing', () => {
    const device = new EchoDevice();
    const rig = new Rig(device, pci);
    rig.start();
    const activation = device.activation!;
    rig.driver.status = 0;
    expect(rig.driver.status).toBe(0);
    activation.needsReset('too late');
    expect(rig.driver.status).toBe(0);
  });
});

describe('a device', () => {
  const hooks: TransportHooks = {
    changed: () => undefined,
    queueInterrupt: () => undefined,
    configInterrupt: () => undefined,
    activated: () => undefined,
    deactivated: () => undefined,
    reset: () => undefined,
  };
  const core = (device: VirtioDevice): VirtioCore =>
    new VirtioCore({ device, memory: new FakeMachine('one window').memory, hooks, resetBlocks: false });

  test.each([0, 3, 2048])('with a queue of %i entries cannot be made', (size) => {
    expect(() => core(new EchoDevice({ queueSizes: [size] }))).toThrow(RangeError);
  });

  test('may refuse a set of features that it offers one by one', () => {
    const device: VirtioDevice = Object.assign(new EchoDevice(), { accepts: (set: Features) => !set.has(5) });
    const rig = new Rig(device, pci);
    expect(() => rig.negotiate()).toThrow(/refuses/);
  });
});

describe('Features', () => {
  test('are 64 bits in two words', () => {
    const set = Features.of(0, 31, 32, 63);
    expect([set.low, set.high]).toEqual([0x8000_0001, 0x8000_0001]);
    expect([0, 1, 31, 32, 33, 63].map((bit) => set.has(bit))).toEqual([true, false, true, true, false, true]);
    expect([0, 1, 2, 0xffff_ffff].map((select) => set.word(select))).toEqual([
      0x8000_0001, 0x8000_0001, 0, 0,
    ]);
  });

  test.each([-1, 64, 1.5])('have no bit %d', (bit) => {
    expect(() => Features.of(bit)).toThrow(RangeError);
  });

  test('are compared as sets', () => {
    expect(Features.of(1, 40).isSubsetOf(Features.of(1, 2, 40))).toBe(true);
    expect(Features.of(1, 41).isSubsetOf(Features.of(1, 2, 40))).toBe(false);
    expect(Features.of(31).isSubsetOf(Features.of(30))).toBe(false);
  });
});

describe('the status machine', () => {
  /** All pairs that the specification allows, from status and written value to the bit that is set. */
  const allowed = new Map<string, number>();
  for (const [from, to] of [
    [0, 1],
    [1, 3],
    [3, 0x0b],
    [0x0b, 0x0f],
  ] as const) {
    allowed.set(`${from} ${to}`, to & ~from);
  }
  for (const from of [0, 1, 3, 0x0b, 0x0f]) allowed.set(`${from} ${from | 0x80}`, 0x80);

  test('takes the four steps and FAILED, of all pairs of values', () => {
    for (let from = 0; from < 0x100; from++) {
      if (!isReachable(from) || (from & 0x40) !== 0) continue;
      for (let to = 1; to < 0x100; to++) {
        // bits that are not the driver's are not looked at
        const expected = allowed.get(`${from} ${to & 0x8f}`) ?? 0;
        expect({ from, to, step: statusStep(from, to) }).toEqual({ from, to, step: expected });
      }
    }
  });

  test('reaches the states of the steps, each also failed or in need of a reset', () => {
    const reachable = Array.from({ length: 256 }, (_, status) => status).filter(isReachable);
    const steps = [0, 1, 3, 0x0b, 0x0f];
    const expected = [0, 0x40, 0x80, 0xc0].flatMap((more) => steps.map((step) => step | more));
    expect(reachable).toEqual(expected.sort((a, b) => a - b));
  });
});
