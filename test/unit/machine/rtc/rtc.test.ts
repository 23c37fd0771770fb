import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Rtc } from '../../../../src/machine/rtc/device.ts';
import { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';
import { randomFrom } from '../random.ts';
import { LinuxRtc, toDate } from './driver.ts';

const MIB = 2 ** 20;
/** a Wednesday */
const NOON = Date.UTC(2026, 10, 18, 13, 45, 30, 250);

let bus: FakeBus;
let irq: FakeIrq;
let rtc: Rtc;
let guest: LinuxRtc;
let now: number;

const build = (memory = 512 * MIB): void => {
  bus = new FakeBus();
  bus.clock = () => now;
  irq = new FakeIrq();
  rtc = new Rtc({ bus, irq, memory, now: () => now });
  guest = new LinuxRtc(bus);
};

/** Lets `ms` pass, for the injected clock and for timers alike. */
const pass = (ms: number): void => {
  for (let left = ms; left > 0; left--) {
    now++;
    vi.advanceTimersByTime(1);
  }
};

beforeEach(() => {
  vi.useFakeTimers();
  now = NOON;
  build();
});

afterEach(() => {
  rtc.close();
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const TIME = [0x32, 9, 8, 7, 6, 4, 2, 0];

describe('time registers', () => {
  it('show UTC in BCD and 24 hours', () => {
    expect(TIME.map((r) => guest.read(r))).toEqual([0x20, 0x26, 0x11, 0x18, 4, 0x13, 0x45, 0x30]);
  });

  it('show binary where register B says so', () => {
    guest.write(0x0b, 0x06);
    expect(TIME.map((r) => guest.read(r))).toEqual([20, 26, 11, 18, 4, 13, 45, 30]);
  });

  it.each([
    [0, 0x12],
    [1, 0x01],
    [11, 0x11],
    [12, 0x92],
    [13, 0x81],
    [23, 0x91],
  ])('show hour %i of 12-hour mode as %i', (hour, byte) => {
    now = Date.UTC(2026, 0, 1, hour);
    guest.write(0x0b, 0x00);
    expect(guest.read(4)).toBe(byte);
  });

  it.each([
    [0x12, 0],
    [0x01, 1],
    [0x92, 12],
    [0x81, 13],
    [0x91, 23],
  ])('take %i of 12-hour mode as hour %i', (byte, hour) => {
    guest.write(0x0b, 0x00);
    guest.write(4, byte);
    guest.write(0x0b, 0x06);
    expect(guest.read(4)).toBe(hour);
  });

  it('move on with the host’s clock', () => {
    now += 86_400_000 * 44 + 1000;
    expect(TIME.map((r) => guest.read(r))).toEqual([0x20, 0x27, 0x01, 0x01, 6, 0x13, 0x45, 0x31]);
  });

  it('take a single field while the clock runs and keep the others', () => {
    guest.write(8, 0x12);
    expect(TIME.map((r) => guest.read(r))).toEqual([0x20, 0x26, 0x12, 0x18, 6, 0x13, 0x45, 0x30]);
  });

  it('stand still while SET is on, and go on from there', () => {
    guest.write(0x0b, 0x82);
    bus.drain();
    now += 5000;
    expect(guest.read(0)).toBe(0x30);
    guest.write(0x0b, 0x02);
    expect(guest.read(0)).toBe(0x30);
    now += 750;
    expect(guest.read(0)).toBe(0x31);
  });

  it('take the first second half a second after the divider was let go', () => {
    guest.setTime({ year: 2026, month: 1, day: 1, hours: 0, minutes: 0, seconds: 0 });
    bus.drain();
    now += 499;
    expect(guest.read(0)).toBe(0x00);
    now += 6;
    expect(guest.read(0)).toBe(0x01);
  });

  it('survive any bytes the guest writes', () => {
    const random = randomFrom(5);
    for (let i = 0; i < 5000; i++) {
      guest.write(random(128), random(256));
      now += random(2000);
      expect(guest.read(random(128))).toBeLessThan(256);
    }
  });

  it('answer the index port with all ones and ignore its NMI bit', () => {
    bus.write('pio', 0x70, 1, 0x80 | 0x0d);
    expect(bus.read('pio', 0x70, 1)).toBe(0xff);
    expect(bus.read('pio', 0x71, 1)).toBe(0x80);
    expect(bus.read('pio', 0x70, 2)).toBe(0x80ff);
  });
});

describe('CMOS RAM', () => {
  it('keeps bytes, the shutdown byte among them', () => {
    guest.write(0x0f, 0x0a);
    guest.write(0x7f, 0x55);
    expect([guest.read(0x0f), guest.read(0x7f)]).toEqual([0x0a, 0x55]);
  });

  it('tells memory sizes below and above 4 GiB', () => {
    build(5 * 1024 * MIB);
    const word = (at: number): number => guest.read(at) + 256 * guest.read(at + 1);
    expect(word(0x15)).toBe(640);
    expect(word(0x17)).toBe(0xffff);
    expect(word(0x34)).toBe((3072 - 16) * 16);
    expect(word(0x5b)).toBe(2048 * 16);
    expect(guest.read(0x5d)).toBe(0);
  });

  it('tells a small memory in KiB above the first MiB', () => {
    build(32 * MIB);
    const word = (at: number): number => guest.read(at) + 256 * guest.read(at + 1);
    expect([word(0x17), word(0x30), word(0x34), word(0x5b)]).toEqual([31 * 1024, 31 * 1024, 256, 0]);
  });

  it('has a right checksum', () => {
    let sum = 0;
    for (let i = 0x10; i <= 0x2d; i++) sum += guest.read(i);
    expect(guest.read(0x2e) * 256 + guest.read(0x2f)).toBe(sum);
  });
});

describe('Linux', () => {
  it('reads the time at the first attempt and waits only where the latch begins anew', () => {
    const before = bus.waits;
    expect(toDate(guest.readTime()!)).toBe(Math.floor(NOON / 1000) * 1000);
    // the first read, and both of register A
    expect(bus.waits - before).toBe(3);
  });

  it('reads the time also of a host whose clock runs on or is set while it is asked', () => {
    const random = randomFrom(11);
    // An hour at a time, either way: as a host that sleeps, or is set.
    rtc.close();
    bus = new FakeBus();
    bus.clock = () => (now += (random(3) - 1) * 3_600_000);
    rtc = new Rtc({ bus, irq, memory: 512 * MIB, now: bus.clock });
    for (let i = 0; i < 200; i++) expect(bus.read('pio', 0x71, 1)).toBeLessThan(256);
  });

  it('does not wait for memory sizes and control registers', () => {
    const before = bus.waits;
    for (const register of [0x0b, 0x0d, 0x0f, 0x15, 0x34]) guest.read(register);
    expect(bus.waits).toBe(before);
  });

  it('selects a register and writes it with one access of two bytes', () => {
    bus.write('pio', 0x70, 2, 0x5a0f);
    expect(guest.read(0x0f)).toBe(0x5a);
  });

  it.each(['readTime', 'oldReadTime'] as const)(
    'never sees a torn time around the last second of a century (%s)',
    (method) => {
      const random = randomFrom(7);
      const rollover = Date.UTC(2100, 0, 1);
      for (let i = 0; i < 500; i++) {
        build();
        now = rollover - random(40) / 10 - 1;
        const slow = random(3) / 10;
        guest = new LinuxRtc(bus, () => (now += 0.01 + slow * (random(10) / 10)));
        const started = now;
        const time = toDate(guest[method]()!);
        expect(time).toBeGreaterThanOrEqual(Math.floor(started / 1000) * 1000);
        expect(time).toBeLessThanOrEqual(now);
        rtc.close();
      }
    },
  );

  it('sees UIP for a millisecond before each second only', () => {
    const seen: number[] = [];
    for (let i = 0; i < 2000; i++, now++) if (guest.read(0x0a) & 0x80) seen.push(now % 1000);
    expect(seen).toEqual([999, 999]);
  });

  it('sets the time, and reads it back as it goes on', () => {
    guest.setTime({ year: 1999, month: 12, day: 31, hours: 23, minutes: 59, seconds: 58 });
    expect(toDate(guest.readTime()!)).toBe(Date.UTC(1999, 11, 31, 23, 59, 58));
    now += 86_400_000;
    expect(toDate(guest.readTime()!)).toBe(Date.UTC(2000, 0, 1, 23, 59, 58));
  });
});

describe('interrupts', () => {
  it('come at the end of each second with UIE, once register C was read', () => {
    guest.write(0x0b, 0x12);
    bus.drain();
    guest.read(0x0c);
    pass(700);
    expect(irq.level).toBe(false);
    pass(60);
    expect([irq.level, guest.read(0x0c)]).toEqual([true, 0x90 | 0x40]);
    expect([irq.level, guest.read(0x0c) & 0xf0]).toEqual([false, 0]);
    pass(3000);
    expect(irq.edges).toBe(2);
  });

  it('come at an alarm with AIE', () => {
    for (const [register, value] of [
      [1, 0x05],
      [3, 0x46],
      [5, 0x13],
      [0x0b, 0x22],
    ] as const)
      guest.write(register, value);
    bus.drain();
    pass(34_740);
    expect(irq.level).toBe(false);
    pass(20);
    expect([irq.level, guest.read(0x0c) & 0xa0]).toEqual([true, 0xa0]);
  });

  it('come at a daily alarm of tomorrow, across the longest host timer', () => {
    for (const [register, value] of [
      [1, 0x00],
      [3, 0x00],
      [5, 0x01],
      [0x0b, 0x22],
    ] as const)
      guest.write(register, value);
    bus.drain();
    const until = Date.UTC(2026, 10, 19, 1) - NOON;
    for (let i = 0; i < until - 1000; i += 1000) {
      now += 1000;
      vi.advanceTimersByTime(1000);
    }
    expect(irq.level).toBe(false);
    pass(2000);
    expect(irq.level).toBe(true);
  });

  it('match alarm bytes from 0xc0 on with anything', () => {
    for (const [register, value] of [
      [1, 0x00],
      [3, 0xc0],
      [5, 0xff],
      [0x0b, 0x22],
    ] as const)
      guest.write(register, value);
    bus.drain();
    pass(29_700);
    expect(irq.level).toBe(false);
    pass(100);
    expect(irq.level).toBe(true);
    guest.read(0x0c);
    pass(59_000);
    expect(irq.level).toBe(false);
    pass(1000);
    expect(irq.level).toBe(true);
  });

  it('match an alarm in 12-hour mode', () => {
    guest.write(0x0b, 0x20);
    for (const [register, value] of [
      [1, 0x31],
      [3, 0x45],
      [5, 0x81],
    ] as const)
      guest.write(register, value);
    bus.drain();
    pass(700);
    expect(irq.level).toBe(false);
    pass(60);
    expect(irq.level).toBe(true);
  });

  it('never come for an alarm that no time matches', () => {
    for (const [register, value] of [
      [1, 0x75],
      [3, 0xff],
      [5, 0xff],
      [0x0b, 0x22],
    ] as const)
      guest.write(register, value);
    bus.drain();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('come periodically at the rate of register A with PIE', () => {
    guest.write(0x0a, 0x2f);
    guest.write(0x0b, 0x42);
    bus.drain();
    guest.read(0x0c);
    const before = irq.edges;
    for (let i = 0; i < 100; i++) {
      pass(100);
      if (irq.level) expect(guest.read(0x0c) & 0xc0).toBe(0xc0);
    }
    expect(irq.edges - before).toBe(20);
  });

  it('come at most a thousand times a second, whatever rate is asked for', () => {
    guest.write(0x0a, 0x23);
    guest.write(0x0b, 0x42);
    bus.drain();
    for (let i = 0; i < 1000; i++) {
      pass(1);
      if (irq.level) guest.read(0x0c);
    }
    expect(irq.edges).toBeGreaterThan(900);
    expect(irq.edges).toBeLessThanOrEqual(1001);
  });

  it('leave no timer running for a guest that does not acknowledge them', () => {
    guest.write(0x0a, 0x26);
    guest.write(0x0b, 0x42);
    bus.drain();
    pass(10);
    expect([irq.level, vi.getTimerCount()]).toEqual([true, 0]);
  });

  it('show flags without being enabled, and without a timer', () => {
    guest.read(0x0c);
    now += 1000;
    expect(vi.getTimerCount()).toBe(0);
    expect(guest.read(0x0c)).toBe(0x50);
  });

  it('come at once where the flag was there before its enable bit', () => {
    now += 1000;
    guest.write(0x0b, 0x12);
    bus.drain();
    expect(irq.level).toBe(true);
  });

  it('lose UIE when SET is turned on', () => {
    guest.write(0x0b, 0x12);
    guest.write(0x0b, 0x92);
    expect(guest.read(0x0b)).toBe(0x82);
  });

  it('are off after a reset, which keeps time and RAM', () => {
    guest.setTime({ year: 2030, month: 1, day: 1, hours: 0, minutes: 0, seconds: 0 });
    guest.write(0x0b, 0x72);
    guest.write(0x40, 0x99);
    bus.drain();
    now += 1000;
    rtc.reset();
    expect([irq.level, guest.read(0x0b), guest.read(0x40), guest.read(9)]).toEqual([false, 0x02, 0x99, 0x30]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('wait while the VM is paused, and come when it goes on', () => {
    guest.write(0x0b, 0x12);
    bus.drain();
    guest.read(0x0c);
    rtc.pause();
    expect(vi.getTimerCount()).toBe(0);
    pass(2000);
    expect(irq.level).toBe(false);
    rtc.resume();
    expect(irq.level).toBe(true);
  });
});

describe('save and restore', () => {
  it('carry a set clock, its alarm and RAM over, and flag what fell due meanwhile', () => {
    guest.setTime({ year: 2030, month: 1, day: 1, hours: 0, minutes: 0, seconds: 0 });
    for (const [register, value] of [
      [1, 0x30],
      [3, 0x00],
      [5, 0x00],
      [0x50, 0x12],
      [0x0b, 0x22],
    ] as const)
      guest.write(register, value);
    bus.drain();
    guest.read(0x0c);
    const state: unknown = JSON.parse(JSON.stringify(rtc.save()));
    rtc.close();

    now += 60_000;
    build();
    rtc.restore(state);
    expect(irq.level).toBe(true);
    expect(guest.read(0x0c) & 0xa0).toBe(0xa0);
    expect(guest.read(0x50)).toBe(0x12);
    expect(toDate(guest.readTime()!)).toBe(Date.UTC(2030, 0, 1, 0, 1, 0));
  });

  it('carry the registers of a stopped clock over', () => {
    guest.write(0x0b, 0x82);
    guest.write(0, 0x59);
    bus.drain();
    const state = rtc.save();
    rtc.close();
    build();
    rtc.restore(state);
    expect(rtc.save()).toEqual(state);
    expect(guest.read(0)).toBe(0x59);
  });

  it('keep the selected register', () => {
    bus.write('pio', 0x70, 1, 0x0d);
    bus.drain();
    const state = rtc.save();
    rtc.close();
    build();
    rtc.restore(state);
    expect(bus.read('pio', 0x71, 1)).toBe(0x80);
  });

  it.each<[string, object]>([
    ['index', { index: 128 }],
    ['cmos', { cmos: [] }],
    ['cmos.0', { cmos: Array<number>(128).fill(-1) }],
    ['offset', { offset: NaN }],
    ['offset', { offset: 1e300 }],
    ['flags', { flags: 0x80 }],
    ['flagged', { flagged: Infinity }],
  ])('refuse a bad %s and change nothing', (field, bad) => {
    const before = rtc.save();
    expect(() => rtc.restore({ ...before, ...bad })).toThrow(`state of rtc, ${field}: `);
    expect(rtc.save()).toEqual(before);
  });
});

describe('on the host’s clock', () => {
  it('tells its time and keeps no process alive', () => {
    vi.useRealTimers();
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const timersBefore = timers();
    const realBus = new FakeBus();
    const real = new Rtc({ bus: realBus, irq, memory: 512 * MIB });
    const linux = new LinuxRtc(realBus);
    const before = Date.now();
    const time = toDate(linux.readTime()!);
    expect(time).toBeGreaterThanOrEqual(Math.floor(before / 1000) * 1000);
    expect(time).toBeLessThanOrEqual(Date.now());
    linux.read(0x0c);
    linux.write(0x0b, 0x12);
    realBus.drain();
    expect(timers()).toBe(timersBefore);
    real.close();
    vi.useFakeTimers();
  });
});
