import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { Power } from '../../../../src/machine/power/device.ts';
import { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';

const [STATUS, ENABLE] = [0x60c, 0x60d] as const;
const [PM1_STATUS, PM1_ENABLE] = [0x600, 0x602] as const;
const GENERATION = 0x01;
const POWER_BUTTON = 0x0100;

let bus: FakeBus;
let sci: FakeIrq;
let power: Power;

const build = (): void => {
  bus = new FakeBus();
  sci = new FakeIrq();
  const nothing = (): void => undefined;
  power = new Power({ bus, sci, onPowerOff: nothing, onReset: nothing, onPanic: nothing });
};

beforeEach(build);
afterEach(() => power.close());

const read = (port: number): number => bus.read('pio', port, 1);
const write = (port: number, value: number): void => bus.write('pio', port, 1, value);

describe('general-purpose events', () => {
  it('show another VM generation id whether that is enabled or not', () => {
    power.generationChanged();
    expect([read(STATUS), read(ENABLE), sci.level]).toEqual([GENERATION, 0, false]);
  });

  it('raise the SCI when status and enable meet, in either order', () => {
    power.generationChanged();
    write(ENABLE, GENERATION);
    expect(sci.level).toBe(true);
    write(STATUS, GENERATION);
    expect(sci.level).toBe(false);
    power.generationChanged();
    expect([sci.level, sci.edges]).toEqual([true, 2]);
  });

  it('clear the status bits that are written as ones, and no others', () => {
    power.generationChanged();
    write(STATUS, 0xff & ~GENERATION);
    expect(read(STATUS)).toBe(GENERATION);
    write(STATUS, 0xff);
    expect(read(STATUS)).toBe(0);
  });

  it('have dropped the SCI before the write that clears it returns', () => {
    write(ENABLE, GENERATION);
    power.generationChanged();
    write(STATUS, GENERATION);
    // Not drained: the line is level-triggered and must be low at the end of interrupt.
    expect(sci.level).toBe(false);
  });

  it('keep no bit of an event that there is not', () => {
    write(ENABLE, 0xff);
    expect(read(ENABLE)).toBe(GENERATION);
  });

  it('take both registers as a word', () => {
    power.generationChanged();
    bus.write('pio', STATUS, 2, GENERATION << 8);
    expect([bus.read('pio', STATUS, 2), sci.level]).toEqual([0x0101, true]);
    bus.write('pio', STATUS, 2, (GENERATION << 8) | GENERATION);
    expect([bus.read('pio', STATUS, 2), sci.level]).toEqual([0x0100, false]);
  });

  it('cost the guest no wait to read', () => {
    read(STATUS);
    read(ENABLE);
    expect(bus.waits).toBe(0);
  });
});

describe('the SCI', () => {
  it('stays high until neither PM1 nor a general-purpose event holds it', () => {
    write(ENABLE, GENERATION);
    bus.write('pio', PM1_ENABLE, 2, POWER_BUTTON);
    power.generationChanged();
    power.powerButton();
    expect([sci.level, sci.edges]).toEqual([true, 1]);
    write(STATUS, GENERATION);
    expect(sci.level).toBe(true);
    bus.write('pio', PM1_STATUS, 2, POWER_BUTTON);
    expect(sci.level).toBe(false);
  });
});

describe('save, restore and reset', () => {
  it('carry a pending event over, with its interrupt', () => {
    write(ENABLE, GENERATION);
    power.generationChanged();
    const state: unknown = JSON.parse(JSON.stringify(power.save()));
    power.close();
    build();
    power.restore(state);
    expect([read(STATUS), read(ENABLE), sci.level]).toEqual([GENERATION, GENERATION, true]);
  });

  it('have an event that comes on a restored board interrupt as soon as it is raised', () => {
    write(ENABLE, GENERATION);
    const state: unknown = power.save();
    power.close();
    build();
    power.restore(state);
    expect(sci.level).toBe(false);
    power.generationChanged();
    expect(sci.level).toBe(true);
  });

  it('start anew on a reset', () => {
    write(ENABLE, GENERATION);
    power.generationChanged();
    power.reset();
    expect([read(STATUS), read(ENABLE), sci.level]).toEqual([0, 0, false]);
  });

  it.each<[string, object]>([
    ['gpe', { gpe: undefined }],
    ['gpe.status', { gpe: { status: 0x100, enable: 0 } }],
    ['gpe.enable', { gpe: { status: 0, enable: -1 } }],
  ])('refuse a bad %s and change nothing', (field, bad) => {
    power.pause();
    const before = power.save().gpe;
    expect(() => power.restore({ ...power.save(), ...bad })).toThrow(`state of power, ${field}: `);
    expect(power.save().gpe).toEqual(before);
  });
});
