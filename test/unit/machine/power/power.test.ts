import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Power } from '../../../../src/machine/power/device.ts';
import { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';
import { randomFrom } from '../random.ts';

const [STATUS, ENABLE, CONTROL, TIMER] = [0x600, 0x602, 0x604, 0x608] as const;
const POWER_BUTTON = 0x0100;

let bus: FakeBus;
let sci: FakeIrq;
let power: Power;
let now: number;
let calls: string[];

const build = (): void => {
  bus = new FakeBus();
  bus.uptime = () => now * 1e6;
  sci = new FakeIrq();
  power = new Power({
    bus,
    sci,
    onPowerOff: () => calls.push('power-off'),
    onReset: () => calls.push('reset'),
    onPanic: (event) => calls.push(event),
  });
};

beforeEach(() => {
  vi.useFakeTimers();
  now = 0;
  calls = [];
  build();
});

afterEach(() => {
  power.close();
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const read = (port: number): number => bus.read('pio', port, 2);
const write = (port: number, value: number): void => bus.write('pio', port, 2, value);

describe('PM1 events', () => {
  it('show a pressed power button whether it is enabled or not', () => {
    power.powerButton();
    expect([read(STATUS), sci.level]).toEqual([POWER_BUTTON, false]);
  });

  it('raise the SCI when status and enable meet, in either order', () => {
    power.powerButton();
    write(ENABLE, POWER_BUTTON);
    expect(sci.level).toBe(true);
    write(STATUS, POWER_BUTTON);
    expect(sci.level).toBe(false);
    power.powerButton();
    expect([sci.level, sci.edges]).toEqual([true, 2]);
  });

  it('clear the status bits that are written as ones, and no others', () => {
    power.powerButton();
    write(STATUS, 0xffff & ~POWER_BUTTON);
    expect(read(STATUS)).toBe(POWER_BUTTON);
    write(STATUS, 0xffff);
    expect(read(STATUS)).toBe(0);
  });

  it('have dropped the SCI before the write that clears it returns', () => {
    write(ENABLE, POWER_BUTTON);
    power.powerButton();
    write(STATUS, POWER_BUTTON);
    // Not drained: the line is level-triggered and must be low at the end of interrupt.
    expect(sci.level).toBe(false);
  });

  it('take the event block by bytes and as a dword', () => {
    bus.write('pio', ENABLE + 1, 1, 0x01);
    bus.write('pio', ENABLE, 1, 0x20);
    power.powerButton();
    expect(bus.read('pio', STATUS, 4)).toBe(0x0120_0100);
    bus.write('pio', STATUS, 4, 0x0100_0100);
    expect(bus.read('pio', STATUS, 4)).toBe(0x0100_0000);
    expect(sci.level).toBe(false);
  });

  it.each([0x0001, 0x0020, 0x0100, 0x0200, 0x0400])('keep enable bit %i, as ACPICA checks', (bit) => {
    write(ENABLE, bit);
    expect(read(ENABLE)).toBe(bit);
  });

  it('keep no reserved bit', () => {
    write(ENABLE, 0xffff);
    expect(read(ENABLE)).toBe(0x4721);
  });

  it('cost the guest no wait to read', () => {
    read(STATUS);
    read(ENABLE);
    read(CONTROL);
    bus.read('pio', TIMER, 4);
    expect(bus.waits).toBe(0);
  });
});

describe('PM1 control', () => {
  it('has SCI_EN always on', () => {
    write(CONTROL, 0);
    expect(read(CONTROL)).toBe(0x0001);
  });

  it('keeps SLP_TYP and reads SLP_EN and GBL_RLS as zero', () => {
    write(CONTROL, (3 << 10) | 0x2000 | 0x0004);
    expect(read(CONTROL)).toBe((3 << 10) | 1);
  });

  it('turns off on SLP_EN with the type of S5', () => {
    write(CONTROL, 5 << 10);
    expect(calls).toEqual([]);
    write(CONTROL, (5 << 10) | 0x2000);
    expect(calls).toEqual(['power-off']);
  });

  it('turns off on a byte write to the upper half', () => {
    bus.write('pio', CONTROL + 1, 1, (5 << 2) | 0x20);
    expect(calls).toEqual(['power-off']);
  });

  it.each([0, 1, 3, 4, 7])('ignores SLP_EN with type %i', (type) => {
    write(CONTROL, (type << 10) | 0x2000);
    expect(calls).toEqual([]);
  });
});

describe('Linux', () => {
  /** acpi_ev_fixed_event_detect(): the events it found, each cleared before it is handled */
  const serveSci = (): number => {
    const found = read(STATUS) & read(ENABLE);
    for (let bit = 1; bit <= found; bit <<= 1) if (found & bit) write(STATUS, bit);
    return found;
  };

  it('gets each press of the power button once', () => {
    write(STATUS, POWER_BUTTON);
    write(ENABLE, read(ENABLE) | POWER_BUTTON);
    for (let press = 0; press < 3; press++) {
      power.powerButton();
      expect(sci.level).toBe(true);
      expect(serveSci()).toBe(POWER_BUTTON);
      expect(sci.level).toBe(false);
    }
    expect(serveSci()).toBe(0);
  });

  it('powers off as ACPICA does: clear status, write the type, then SLP_EN', () => {
    write(STATUS, 0x8000);
    write(STATUS, 0xcf31);
    const control = read(CONTROL) & ~0x3c00;
    write(CONTROL, control | (5 << 10));
    expect(calls).toEqual([]);
    write(CONTROL, control | (5 << 10) | 0x2000);
    expect(calls).toEqual(['power-off']);
  });
});

describe('PM timer', () => {
  it('counts at 3.579545 MHz with 32 bits', () => {
    expect(bus.read('pio', TIMER, 4, 1e9)).toBe(3_579_545);
    expect(bus.read('pio', TIMER, 4, 1300e9)).toBe((1300 * 3_579_545) % 2 ** 32);
  });

  it('sets TMR_STS when its top bit changes, every ten minutes', () => {
    write(ENABLE, 0x0001);
    now = 599_931;
    vi.advanceTimersByTime(599_931);
    expect(sci.level).toBe(false);
    now += 2;
    vi.advanceTimersByTime(2);
    expect([sci.level, read(STATUS)]).toEqual([true, 0x0001]);
    write(STATUS, 0x0001);
    now += 599_930;
    vi.advanceTimersByTime(599_930);
    expect(sci.level).toBe(false);
    now += 3;
    vi.advanceTimersByTime(3);
    expect(sci.level).toBe(true);
  });

  it('has no host timer while paused, and catches up', () => {
    power.pause();
    expect(vi.getTimerCount()).toBe(0);
    now = 600_000;
    expect(read(STATUS)).toBe(0);
    power.resume();
    expect(read(STATUS)).toBe(0x0001);
  });
});

describe('port 0x92', () => {
  const a = (value: number): void => {
    bus.write('pio', 0x92, 1, value);
    bus.drain();
  };

  it('resets when bit 0 goes on, not while it stays on', () => {
    a(0x02);
    expect(calls).toEqual([]);
    a(0x03);
    a(0x03);
    expect(calls).toEqual(['reset']);
    a(0x02);
    a(0x01);
    expect(calls).toEqual(['reset', 'reset']);
  });

  it('starts with A20 on and keeps the bit', () => {
    expect(bus.read('pio', 0x92, 1)).toBe(0x02);
    bus.write('pio', 0x92, 1, 0xf0);
    expect(bus.read('pio', 0x92, 1)).toBe(0x00);
  });
});

describe('pvpanic', () => {
  it('tells that it knows panics and crash kernels', () => {
    expect(bus.read('pio', 0x505, 1)).toBe(0x03);
  });

  it('reports a panic at once', () => {
    bus.write('pio', 0x505, 1, 0x01);
    expect(calls).toEqual(['panicked']);
  });

  it('reports a loaded crash kernel', () => {
    bus.write('pio', 0x505, 1, 0x02);
    expect(calls).toEqual(['crash-loaded']);
  });

  it('ignores events it does not know', () => {
    bus.write('pio', 0x505, 1, 0xfc);
    expect(calls).toEqual([]);
  });
});

describe('save, restore and reset', () => {
  it('carry a pending power button over, with its interrupt', () => {
    write(ENABLE, POWER_BUTTON);
    write(CONTROL, 5 << 10);
    power.powerButton();
    power.resetControl.write(0x02);
    bus.write('pio', 0x92, 1, 0x00);
    bus.drain();
    const state: unknown = JSON.parse(JSON.stringify(power.save()));
    power.close();
    build();
    power.restore(state);
    expect(power.save()).toEqual(state);
    expect(sci.level).toBe(true);
    expect([read(STATUS), read(ENABLE), read(CONTROL)]).toEqual([0x0100, 0x0100, (5 << 10) | 1]);
    expect(power.resetControl.read()).toBe(0x02);
    expect(calls).toEqual([]);
  });

  it('let the PM timer go on from where it stood', () => {
    now = 5000;
    const state: unknown = power.save();
    power.close();
    now = 70;
    build();
    power.restore(state);
    const timer = (): number => bus.read('pio', TIMER, 4);
    expect(timer()).toBe(5 * 3_579_545);
    now += 1000;
    expect(timer()).toBe(6 * 3_579_545);
  });

  it('have TMR_STS set when the restored timer changes its top bit', () => {
    now = 599_000;
    const state: unknown = power.save();
    power.close();
    now = 0;
    build();
    power.restore(state);
    power.resume();
    now = 930;
    vi.advanceTimersByTime(930);
    expect(read(STATUS)).toBe(0);
    now += 3;
    vi.advanceTimersByTime(3);
    expect(read(STATUS)).toBe(0x0001);
  });

  it('know of a top bit that changed while the VM was paused', () => {
    power.pause();
    now = 600_000;
    const state: unknown = power.save();
    expect(read(STATUS)).toBe(0);
    power.close();
    build();
    power.restore(state);
    power.resume();
    expect(read(STATUS)).toBe(0x0001);
    write(STATUS, 0x0001);
    power.resume();
    expect(read(STATUS)).toBe(0);
  });

  it('start anew on a reset', () => {
    write(ENABLE, POWER_BUTTON);
    power.powerButton();
    power.reset();
    expect([read(STATUS), read(ENABLE), read(CONTROL), sci.level]).toEqual([0, 0, 1, false]);
  });

  it.each<[string, object]>([
    ['pm1', { pm1: 1 }],
    ['pm1.status', { pm1: { status: 0x10000, enable: 0, control: 0, counter: 0 } }],
    ['pm1.counter', { pm1: { status: 0, enable: 0, control: 0, counter: 2 ** 32 } }],
    ['pm1.counter', { pm1: { status: 0, enable: 0, control: 0 } }],
    ['resetControl', { resetControl: -1 }],
    ['systemControlA', { systemControlA: '0' }],
  ])('refuse a bad %s and change nothing', (field, bad) => {
    const before = power.save();
    expect(() => power.restore({ ...before, ...bad })).toThrow(`state of power, ${field}: `);
    expect(power.save()).toEqual(before);
  });

  it('survive any writes, and what they save can be restored', () => {
    const random = randomFrom(21);
    for (let i = 0; i < 5000; i++) {
      const size = ([1, 2, 4] as const)[random(3)]!;
      const port = [0x600, 0x602, 0x604][random(3)]!;
      bus.write('pio', port, port === 0x600 ? size : 2, random(2 ** 32));
      if (random(10) === 0) power.powerButton();
      expect(sci.level).toBe((read(STATUS) & read(ENABLE)) !== 0);
    }
    const state = power.save();
    power.restore(state);
    expect(power.save()).toEqual(state);
  });
});
