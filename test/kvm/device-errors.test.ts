import { describe, expect, test, vi } from 'vitest';
import type { BusRegion } from '../../src/kvm/bus.ts';
import { EXIT } from '../../src/kvm/constants.ts';
import { runToHalt, sleep, tinyGuests } from '../support/tiny-guests.ts';
import { real, SPIN } from '../support/x86.ts';

const PORT = 0x500;
const OUT = 0x600;

const guest = tinyGuests();

const device = (more: Partial<BusRegion>): BusRegion => ({
  name: 'device',
  space: 'pio',
  base: PORT,
  size: 4,
  reads: 'trap',
  writes: 'trap',
  ...more,
});

const failure = new Error('a bug in the device');
const fail = (): never => {
  throw failure;
};

describe('a device that throws', () => {
  test('is reported with its region, and the guest goes on as if nobody were there', async () => {
    const tiny = guest(real.out8(PORT, 1), real.in32(PORT), real.storeEax(OUT));
    const region = device({ read: fail, write: fail });
    tiny.vm.add(region);
    const reports: unknown[] = [];
    tiny.vm.onDeviceError = (...report) => reports.push(report);
    await runToHalt(tiny);
    expect(reports).toEqual([
      [region, failure],
      [region, failure],
    ]);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0xffffffff);
  });

  test('costs no other posted access of the same batch, whatever onDeviceError does', async () => {
    const tiny = guest(...[1, 2, 3, 4].map((value) => real.out8(PORT, value)));
    const seen: number[] = [];
    tiny.vm.add(
      device({
        writes: 'posted',
        write: (_offset, _size, value) => {
          seen.push(value);
          if (value % 2 === 1) fail();
        },
      }),
    );
    const uncaught: unknown[] = [];
    tiny.vm.onDeviceError = (_, error) => {
      throw error;
    };
    await withUncaught(uncaught, () => runToHalt(tiny));
    expect(seen).toEqual([1, 2, 3, 4]);
    expect(uncaught).toEqual([failure, failure]);
  });

  test('is an uncaught exception where nobody asked to be told', async () => {
    const tiny = guest(real.in8(PORT));
    tiny.vm.add(device({ read: fail }));
    const uncaught: unknown[] = [];
    await withUncaught(uncaught, () => runToHalt(tiny));
    expect(uncaught).toEqual([failure]);
  });
});

/** Collects uncaught exceptions in place of the test runner. */
async function withUncaught(into: unknown[], body: () => Promise<void>): Promise<void> {
  const others = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => into.push(error));
  try {
    await body();
    await sleep(5);
  } finally {
    process.removeAllListeners('uncaughtException');
    for (const listener of others) process.on('uncaughtException', listener);
  }
}

describe('a VM that is closed by its own device', () => {
  const bodies: [string, readonly number[], Partial<BusRegion>][] = [
    ['a trapped read', real.forever(real.inAlDx), {}],
    ['a trapped write', real.forever(real.outDxAl), {}],
    ['a posted write', real.forever(real.outDxAl), { writes: 'posted' }],
    ['a consumed read', real.forever(real.inAlDx), { reads: 'consume' }],
  ];

  test.each(bodies)('within %s', async (_, body, modes) => {
    const tiny = guest(real.movDx(PORT), body);
    let calls = 0;
    let onClosed: () => void;
    const closed = new Promise<void>((resolve) => (onClosed = resolve));
    const close = (): number => {
      if (++calls === 20) {
        tiny.vm.close();
        onClosed();
      }
      return 0;
    };
    tiny.vm.add(device({ ...modes, read: close, write: close, consumed: close }));
    tiny.vm.onExit = vi.fn();
    tiny.vm.resume();
    await closed;
    await sleep(10);
    expect(calls).toBe(20);
    expect(tiny.vm.closed).toBe(true);
    expect(tiny.vcpu.running).toBe(false);
    expect(tiny.vm.onExit).not.toHaveBeenCalled();
  });

  test('within its exit callback', async () => {
    const tiny = guest();
    await new Promise<void>((resolve) => {
      tiny.vm.onExit = ({ reason }) => {
        expect(reason).toBe(EXIT.hlt);
        tiny.vm.close();
        resolve();
      };
      tiny.vm.resume();
    });
    expect(tiny.vm.closed).toBe(true);
  });
});

describe('closing', () => {
  test('ends a guest that runs without an exit, at once and more than once', () => {
    const tiny = guest(SPIN);
    tiny.vm.resume();
    const start = performance.now();
    tiny.vm.close();
    tiny.vm.close();
    expect(performance.now() - start).toBeLessThan(1000);
  });

  test('answers a pause that is under way', async () => {
    const tiny = guest(real.in8(PORT), SPIN);
    let paused: Promise<void> | undefined;
    tiny.vm.add(
      device({
        read: () => {
          paused = tiny.vm.pause();
          tiny.vm.close();
          return 0;
        },
      }),
    );
    tiny.vm.resume();
    await vi.waitFor(() => expect(paused).toBeDefined());
    await paused;
    await tiny.vm.pause();
    tiny.vm.resume();
    expect(tiny.vcpu.running).toBe(false);
  });

  test('leaves handles that do nothing any more', () => {
    const tiny = guest();
    const handle = tiny.vm.add(device({ reads: 'shadow' }));
    const line = tiny.vm.irqLine(4);
    tiny.vm.close();
    handle.remove();
    handle.shadow.fill(1);
    line.set(true);
    tiny.vm.routing.allocate({ addressLow: 0xfee00000, addressHigh: 0, data: 0x41 });
  });
});
