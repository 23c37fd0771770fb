/** Reads that spare the guest a wait: leased and take, and the order of one region. */
import { describe, expect, test } from 'vitest';
import type { BusRegion } from '../../src/kvm/bus.ts';
import { runToHalt, sleep, tinyGuests } from '../support/tiny-guests.ts';
import { real } from '../support/x86.ts';

const PORT = 0x500;
const OTHER = 0x520;
const OUT = 0x600;

const guest = tinyGuests();

const region = (more: Partial<BusRegion>): BusRegion => ({
  name: 'device',
  space: 'pio',
  base: PORT,
  size: 8,
  reads: 'shadow',
  writes: 'posted',
  ...more,
});

describe('leased', () => {
  const readTwice = [real.in8(PORT), real.storeAl(OUT), real.in8(PORT), real.storeAl(OUT + 1)];

  test('a read is trapped until there is a lease, and then served from the shadow', async () => {
    const tiny = guest(...readTwice);
    let traps = 0;
    const handle = tiny.vm.add(
      region({
        reads: 'leased',
        read: () => {
          traps++;
          handle.shadow[0] = 7;
          handle.lease(60_000);
          return 5;
        },
      }),
    );
    await runToHalt(tiny);
    expect([...tiny.ram.memory.read(OUT, 2)]).toEqual([5, 7]);
    expect(traps).toBe(1);
    expect(tiny.vm.counters()).toContainEqual({ name: 'device', reads: 2, writes: 0, waits: 1 });
  });

  test.each([
    ['has run out', 5],
    ['was ended', 60_000],
  ])('a read is trapped again where the lease %s', async (_, ms) => {
    const tiny = guest(...readTwice);
    let traps = 0;
    const handle = tiny.vm.add(region({ reads: 'leased', read: () => ++traps }));
    handle.lease(ms);
    if (ms === 5) await sleep(10);
    else handle.lease(0);
    await runToHalt(tiny);
    expect(traps).toBe(2);
  });

  test('a read sees what the device made of the writes before it, an end of the lease among that', async () => {
    const tiny = guest(real.out8(PORT, 1), real.in8(PORT), real.storeAl(OUT));
    const handle = tiny.vm.add(region({ reads: 'leased', read: () => 9, write: () => handle.lease(0) }));
    handle.lease(60_000);
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU8(OUT)).toBe(9);
  });
});

describe('take', () => {
  test('a read gives what is offered once, then what it has left, and the device is told of each', async () => {
    const tiny = guest(...[0, 1, 2].flatMap((i) => [real.in8(PORT + 2), real.storeAl(OUT + i)]));
    const told: number[] = [];
    const handle = tiny.vm.add(
      region({
        reads: 'take',
        order: 'own',
        consumed: (offset, size, value) => told.push(offset, size, value),
      }),
    );
    expect(handle.offer(2, 0xc2, 0xc1)).toBe(true);
    await runToHalt(tiny);
    expect([...tiny.ram.memory.read(OUT, 3)]).toEqual([0xc2, 0xc1, 0xc1]);
    expect(told).toEqual([2, 1, 0xc2, 2, 1, 0xc1, 2, 1, 0xc1]);
    expect(tiny.vm.counters()).toContainEqual({ name: 'device', reads: 3, writes: 0, waits: 0 });
  });

  test('an offer that was taken is not replaced before the device has been told', async () => {
    const answers: boolean[] = [];
    // the trapped read behind it lets the device look in between
    const tiny = guest(real.in8(PORT), real.in8(OTHER), real.in8(PORT), real.storeAl(OUT));
    const handle = tiny.vm.add(
      region({
        reads: 'take',
        order: 'own',
        consumed: (_offset, _size, value) => {
          if (value !== 2) return;
          answers.push(handle.offer(0, 5, 1));
        },
      }),
    );
    tiny.vm.add(region({ name: 'other', base: OTHER, reads: 'trap', read: () => 0 }));
    handle.offer(0, 2, 1);
    await runToHalt(tiny);
    expect(answers).toEqual([true]);
    expect(tiny.ram.memory.readU8(OUT)).toBe(5);
  });

  test('an offer may be replaced before it is taken', async () => {
    const tiny = guest(real.in8(PORT), real.storeAl(OUT));
    const handle = tiny.vm.add(region({ reads: 'take' }));
    expect([handle.offer(0, 2, 1), handle.offer(0, 3, 1)]).toEqual([true, true]);
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU8(OUT)).toBe(3);
    expect(() => handle.offer(8, 0, 0)).toThrow(RangeError);
  });

  test('a wider access is trapped', async () => {
    const tiny = guest(real.in16(PORT), real.storeAx(OUT));
    tiny.vm.add(region({ reads: 'take', read: () => 0x1234 }));
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU16(OUT)).toBe(0x1234);
  });

  test('each of 2,000 offers is taken exactly once while guest and device race', async () => {
    const count = 2_000;
    const tiny = guest(real.movDx(PORT), real.movEcx(40 * count), real.loopEcx(real.inAlDx));
    const taken: number[] = [];
    let next = 0;
    let open = false;
    const handle = tiny.vm.add(
      region({
        reads: 'take',
        order: 'own',
        consumed: (_offset, _size, value) => {
          if (value !== 0) {
            taken.push(value);
            open = false;
          }
          if (open || next === count) return;
          open = handle.offer(0, 1 + (next % 255), 0);
          if (!open) throw new Error('an offer is refused although the last one is settled');
          next++;
        },
      }),
    );
    await runToHalt(tiny);
    // the last one may still lie there
    expect(taken.length).toBeGreaterThan(100);
    expect(next - taken.length).toBeLessThanOrEqual(1);
    expect(taken.every((value, i) => value === 1 + (i % 255))).toBe(true);
  }, 120_000);
});

describe('the order of one region', () => {
  test('a read does not wait for writes elsewhere', async () => {
    const tiny = guest(real.out8(OTHER, 1), real.in8(PORT), real.storeAl(OUT));
    tiny.vm.add(region({ reads: 'ordered', order: 'own' }));
    tiny.vm.add(region({ name: 'other', base: OTHER, write: () => undefined }));
    await runToHalt(tiny);
    expect(tiny.vm.counters()).toContainEqual({ name: 'device', reads: 1, writes: 0, waits: 0 });
  });

  test('a read waits for a posted write to it, and not for a stream', async () => {
    const tiny = guest(
      real.out8(PORT + 1, 4),
      real.in8(PORT),
      real.out8(PORT + 2, 5),
      real.in8(PORT),
      real.storeAl(OUT),
    );
    const handle = tiny.vm.add(
      region({
        reads: 'ordered',
        order: 'own',
        writes: ['ignore', 'posted', 'stream', 'ignore', 'ignore', 'ignore', 'ignore', 'ignore'],
        write: (_offset, _size, value) => (handle.shadow[0] = value),
      }),
    );
    await runToHalt(tiny);
    const { waits } = tiny.vm.counters().find(({ name }) => name === 'device')!;
    expect(waits).toBeLessThanOrEqual(1);
    expect(handle.shadow[0]).toBe(5);
    expect([4, 5]).toContain(tiny.ram.memory.readU8(OUT));
  });

  test('consumed bytes are told before the next read of them', async () => {
    const tiny = guest(real.in8(PORT), real.in8(PORT), real.storeAl(OUT));
    const handle = tiny.vm.add(
      region({ reads: 'consume', order: 'own', consumed: () => (handle.shadow[0] = handle.shadow[0]! + 1) }),
    );
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU8(OUT)).toBe(1);
  });
});
