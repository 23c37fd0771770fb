import { beforeEach, describe, expect, it, vi } from 'vitest';

import { I8042 } from '../../../../src/machine/i8042/device.ts';
import { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';
import { randomFrom } from '../random.ts';
import { LinuxI8042 } from './driver.ts';

let bus: FakeBus;
let irq: FakeIrq;
let kbc: I8042;
let onReset: ReturnType<typeof vi.fn<() => void>>;

beforeEach(() => {
  bus = new FakeBus();
  irq = new FakeIrq();
  onReset = vi.fn<() => void>();
  kbc = new I8042({ bus, irq, onReset });
});

const status = (): number => bus.read('pio', 0x64, 1);
const data = (): number => bus.read('pio', 0x60, 1);
const command = (byte: number, ...parameters: number[]): void => {
  bus.write('pio', 0x64, 1, byte);
  for (const parameter of parameters) bus.write('pio', 0x60, 1, parameter);
};
const send = (byte: number): void => bus.write('pio', 0x60, 1, byte);
/** All bytes waiting. */
const readAll = (): number[] => {
  const bytes: number[] = [];
  while (status() & 0x01) bytes.push(data());
  return bytes;
};
const raw = (): void => {
  command(0x60, 0x25);
  bus.drain();
};

describe('controller', () => {
  it('starts unlocked, self-tested and empty', () => {
    expect(status()).toBe(0x14);
    expect(irq.level).toBe(false);
  });

  it('says in its status whether the last byte was a command', () => {
    command(0xae);
    expect(status() & 0x08).toBe(0x08);
    send(0xf4);
    expect(status() & 0x08).toBe(0);
  });

  it.each([
    ['self test', 0xaa, 0x55],
    ['keyboard test', 0xab, 0x00],
    ['auxiliary test: none', 0xa9, 0x01],
    ['command byte', 0x20, 0x65],
    ['input port: not locked', 0xc0, 0x80],
    ['output port: no reset, A20 on', 0xd0, 0x03],
    ['test inputs', 0xe0, 0x00],
  ])('answers %s', (_name, byte, answer) => {
    command(byte);
    expect(readAll()).toEqual([answer]);
  });

  it('keeps its command byte and RAM', () => {
    command(0x60, 0x34);
    command(0x7f, 0x99);
    command(0x20);
    expect(data()).toBe(0x34);
    command(0x3f);
    expect(data()).toBe(0x99);
  });

  it('shows the system flag of the command byte in its status', () => {
    command(0x60, 0x41);
    expect(status() & 0x04).toBe(0);
    command(0xaa);
    expect(status() & 0x04).toBe(0x04);
  });

  it('turns the keyboard off and on by command, and on by a byte for it', () => {
    command(0xad);
    bus.drain();
    kbc.typeScancodes([0x1c]);
    expect(status() & 0x01).toBe(0);
    command(0xae);
    expect(readAll()).toEqual([0x1e]);
    command(0xad);
    send(0xee);
    expect(readAll()).toEqual([0xee]);
  });

  it('puts a byte into the output buffer as if the keyboard had sent it', () => {
    command(0xd2, 0x42);
    bus.drain();
    expect(irq.level).toBe(true);
    expect(readAll()).toEqual([0x42]);
    expect(irq.level).toBe(false);
  });

  it('drops an answer that nobody read when the next command comes', () => {
    command(0xaa);
    command(0xab);
    expect(readAll()).toEqual([0x00]);
  });

  it('does not raise the interrupt where the command byte has it off', () => {
    command(0x60, 0x44);
    bus.drain();
    kbc.typeScancodes([0x1c]);
    expect(irq.level).toBe(false);
    expect(readAll()).toEqual([0x1e]);
  });

  it('gives an edge for each byte of the keyboard', () => {
    kbc.typeScancodes([0x1c, 0xf0, 0x1c]);
    expect([irq.level, irq.edges]).toEqual([true, 1]);
    data();
    expect([irq.level, irq.edges]).toEqual([true, 2]);
    data();
    expect([irq.level, irq.edges]).toEqual([false, 2]);
  });

  it.each([0xfe, 0xf0, 0xfc])('resets the machine on the pulse 0x%s of line 0', (byte) => {
    command(byte);
    bus.drain();
    expect(onReset).toHaveBeenCalledOnce();
  });

  it('resets the machine when the output port lets line 0 fall', () => {
    command(0xd1, 0x03);
    bus.drain();
    expect(onReset).not.toHaveBeenCalled();
    command(0xd1, 0x02);
    bus.drain();
    expect(onReset).toHaveBeenCalledOnce();
  });

  it.each([0xff, 0xf1, 0xfd])('ignores the pulse 0x%s of other lines', (byte) => {
    command(byte);
    bus.drain();
    expect(onReset).not.toHaveBeenCalled();
    expect(readAll()).toEqual([]);
  });

  it('ignores unknown commands', () => {
    command(0x9f);
    command(0xc7);
    expect(readAll()).toEqual([]);
  });

  it('survives any bytes the guest writes, holding little', () => {
    const random = randomFrom(3);
    for (let i = 0; i < 20_000; i++) {
      bus.write('pio', random(2) ? 0x60 : 0x64, 1, random(256));
      if (random(4) === 0) expect(bus.read('pio', random(2) ? 0x60 : 0x64, 1)).toBeLessThan(256);
      if (random(8) === 0) kbc.typeScancodes([random(256)]);
    }
    const state = kbc.save();
    expect(state.keyboard.replies.length).toBeLessThanOrEqual(3);
    expect(state.keyboard.codes.length).toBeLessThanOrEqual(16);
    expect(() => kbc.restore(state)).not.toThrow();
  });
});

describe('keyboard', () => {
  beforeEach(raw);

  it.each([
    ['echo', [0xee], [0xee]],
    ['identify', [0xf2], [0xfa, 0xab, 0x83]],
    ['reset', [0xff], [0xfa, 0xaa]],
    ['set leds', [0xed, 0x07], [0xfa, 0xfa]],
    ['set rate', [0xf3, 0x00], [0xfa, 0xfa]],
    ['a bad rate', [0xf3, 0x80], [0xfa, 0xfe]],
    ['read scan code set', [0xf0, 0x00], [0xfa, 0xfa, 0x02]],
    ['select set 1', [0xf0, 0x01, 0xf0, 0x00], [0xfa, 0xfa, 0xfa, 0xfa, 0x01]],
    ['select set 3, which it does not have', [0xf0, 0x03], [0xfa, 0xfe]],
    ['disable, defaults, enable', [0xf5, 0xf6, 0xf4], [0xfa, 0xfa, 0xfa]],
    ['resend', [0xee, 0xfe], [0xee, 0xee]],
    ['an unknown command', [0xe5], [0xfe]],
    ['a command in place of a parameter', [0xed, 0xf2], [0xfa, 0xfa, 0xab, 0x83]],
  ])('answers %s', (_name, bytes, answers) => {
    const got: number[] = [];
    for (const byte of bytes) {
      send(byte);
      got.push(...readAll());
    }
    expect(got).toEqual(answers);
  });

  it('tells the lights that were set', () => {
    send(0xed);
    send(0x05);
    bus.drain();
    expect(kbc.leds).toBe(5);
  });

  it('sends set 2 untranslated where translation is off', () => {
    kbc.typeScancodes([0x1c, 0xf0, 0x1c]);
    expect(readAll()).toEqual([0x1c, 0xf0, 0x1c]);
  });

  it('sends set 1 itself where that was selected', () => {
    send(0xf0);
    send(0x01);
    readAll();
    kbc.typeScancodes([0x1c, 0xe0, 0xf0, 0x71]);
    expect(readAll()).toEqual([0x1e, 0xe0, 0xd3]);
  });

  it('types nothing while scanning is off', () => {
    send(0xf5);
    readAll();
    expect(kbc.typeScancodes([0x1c])).toBe(false);
    send(0xf4);
    readAll();
    expect(kbc.typeScancodes([0x1c])).toBe(true);
  });

  it('takes typing whole or not at all when its buffer is full', () => {
    // One byte goes on into the controller at once.
    expect(kbc.typeScancodes(Array<number>(16).fill(0x1c))).toBe(true);
    expect(kbc.typeScancodes([0xf0, 0x1c])).toBe(false);
    expect(kbc.typeScancodes([0x1c])).toBe(true);
    expect(readAll()).toHaveLength(17);
  });

  it('answers a command before it sends keys typed earlier', () => {
    kbc.typeScancodes([0x1c, 0x32]);
    send(0xee);
    expect(readAll()).toEqual([0x1c, 0xee, 0x32]);
  });
});

describe('translation to set 1', () => {
  it.each([
    ['A pressed and released', [0x1c, 0xf0, 0x1c], [0x1e, 0x9e]],
    ['F7', [0x83, 0xf0, 0x83], [0x41, 0xc1]],
    ['Escape', [0x76], [0x01]],
    ['F12', [0x07], [0x58]],
    ['cursor up', [0xe0, 0x75, 0xe0, 0xf0, 0x75], [0xe0, 0x48, 0xe0, 0xc8]],
    ['Alt+SysRq', [0x84], [0x54]],
    ['overrun', [0x00], [0xff]],
  ])('turns %s', (_name, set2, set1) => {
    kbc.typeScancodes(set2);
    expect(readAll()).toEqual(set1);
  });

  it('covers all codes of set 1', () => {
    const seen = new Set<number>();
    for (let code = 1; code <= 0x84; code++) {
      if (code === 0x02 || code === 0x80 || code === 0x81 || code === 0x82) continue;
      kbc.typeScancodes([code]);
      seen.add(data());
    }
    expect(seen.size).toBe(127);
    expect(Math.max(...seen)).toBe(0x7f);
  });

  it('types Ctrl-Alt-Del', () => {
    expect(kbc.ctrlAltDel()).toBe(true);
    expect(readAll()).toEqual([0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
  });
});

describe('Linux', () => {
  it('probes the controller without a warning, without a timeout, and finds no auxiliary port', () => {
    const linux = new LinuxI8042(bus, irq);
    expect(linux.probe()).toEqual({ aux: false });
    expect(linux.warnings).toEqual([]);
    expect(linux.timeouts).toBe(0);
    expect(status() & 0x01).toBe(0);
  });

  it('finds the translated keyboard by interrupts alone', () => {
    const linux = new LinuxI8042(bus, irq);
    linux.probe();
    expect(linux.connectKeyboard()).toBe(0xab41);
    expect(linux.warnings).toEqual([]);
  });

  it('receives every key typed, also ones typed during the probe', () => {
    const linux = new LinuxI8042(bus, irq);
    kbc.ctrlAltDel();
    linux.probe();
    expect(linux.warnings).toEqual([]);
    linux.connectKeyboard();
    const expected: number[] = [];
    const random = randomFrom(11);
    for (let i = 0; i < 2000; i++) {
      if (kbc.typeScancodes([0x1c, 0xf0, 0x1c])) expected.push(0x1e, 0x9e);
      if (random(3) === 0) linux.serve();
    }
    linux.serve();
    expect(linux.received).toEqual(expected);
  });

  it('does not wait for status after the probe', () => {
    bus.drain();
    const before = bus.waits;
    status();
    expect(bus.waits).toBe(before);
  });
});

describe('save, restore and reset', () => {
  it('carry on between two bytes of a key and in the middle of a command', () => {
    kbc.typeScancodes([0xe0, 0x75, 0xe0, 0xf0, 0x75]);
    data();
    command(0x60);
    bus.drain();
    const state: unknown = JSON.parse(JSON.stringify(kbc.save()));
    bus = new FakeBus();
    irq = new FakeIrq();
    kbc = new I8042({ bus, irq, onReset });
    kbc.restore(state);
    expect(kbc.save()).toEqual(state);
    expect(irq.level).toBe(true);
    expect(readAll()).toEqual([0x48, 0xe0, 0xc8]);
    send(0x47);
    command(0x20);
    expect(data()).toBe(0x47);
  });

  it('start anew on a reset', () => {
    command(0x60, 0x00);
    kbc.typeScancodes([0x1c]);
    bus.drain();
    kbc.reset();
    expect([status(), irq.level]).toEqual([0x14, false]);
    command(0x20);
    expect(data()).toBe(0x65);
  });

  it.each<[string, object]>([
    ['ram', { ram: [1] }],
    ['output', { output: 256 }],
    ['outputFrom', { outputFrom: 'mouse' }],
    ['awaiting', { awaiting: -1 }],
    ['keyboard', { keyboard: null }],
    ['commandLast', { commandLast: undefined }],
  ])('refuse a bad %s and change nothing', (field, bad) => {
    const before = kbc.save();
    expect(() => kbc.restore({ ...before, ...bad })).toThrow(`state of i8042, ${field}: `);
    expect(kbc.save()).toEqual(before);
  });

  it.each<[string, object]>([
    ['codes', { codes: Array<number>(17).fill(0) }],
    ['replies', { replies: [1, 2, 3, 4] }],
    ['set', { set: 3 }],
    ['awaiting', { awaiting: 0xee }],
  ])('refuse a bad keyboard.%s', (field, bad) => {
    const state = kbc.save();
    const broken = { ...state, keyboard: { ...state.keyboard, ...bad } };
    expect(() => kbc.restore(broken)).toThrow(`state of i8042, keyboard.${field}: `);
  });
});
