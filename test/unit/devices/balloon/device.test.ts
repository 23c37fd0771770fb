import { describe, expect, test } from 'vitest';
import { BALLOON_F } from '../../../../src/devices/balloon/protocol.ts';
import { DeviceStateError } from '../../../../src/kvm/device-state.ts';
import { PAGE } from '../../../support/virtio/machine.ts';
import { CONFIG, drive, newBalloon, RAM } from './balloon-rig.ts';

describe('the target', () => {
  test('is in the configuration space from the start on, in pages', () => {
    const { rig, device } = newBalloon({ size: 5 * PAGE });
    expect(rig.driver.readConfig(CONFIG.target, 4)).toBe(5);
    expect(device.target).toBe(5 * PAGE);
  });

  test('reaches the driver with a configuration interrupt', () => {
    const balloon = newBalloon();
    drive(balloon, {});
    balloon.rig.driver.interrupts();
    balloon.device.resize(7 * PAGE + 123);
    expect(balloon.rig.driver.interrupts()).toEqual({ queues: false, config: true });
    expect(balloon.rig.driver.readConfig(CONFIG.target, 4)).toBe(7);
    expect(balloon.device.target).toBe(7 * PAGE);
  });

  test('may be all of RAM, and not more', () => {
    const { device } = newBalloon();
    device.resize(RAM);
    expect(device.target).toBe(RAM);
    for (const size of [RAM + 1, -1, NaN, Infinity]) expect(() => device.resize(size)).toThrow(RangeError);
    expect(device.target).toBe(RAM);
    expect(() => newBalloon({ size: RAM + 1 })).toThrow(RangeError);
  });

  test('is not the driver’s to change', () => {
    const balloon = newBalloon({ size: PAGE });
    drive(balloon, {});
    balloon.rig.driver.writeConfig(CONFIG.target, 4, 99);
    balloon.rig.machine.settle();
    expect(balloon.device.target).toBe(PAGE);
  });
});

describe('what the balloon holds', () => {
  test('is what the driver says, and no more than there is', () => {
    const balloon = newBalloon();
    drive(balloon, {});
    expect(balloon.device.actual).toBe(0);
    balloon.rig.driver.writeConfig(CONFIG.actual, 4, 3);
    balloon.rig.machine.settle();
    expect(balloon.device.actual).toBe(3 * PAGE);
    balloon.rig.driver.writeConfig(CONFIG.actual, 4, 0xffff_ffff);
    balloon.rig.machine.settle();
    expect(balloon.device.actual).toBe(RAM);
  });

  test('is nothing after a reset, and the target stays', () => {
    const balloon = newBalloon({ size: 4 * PAGE });
    drive(balloon, { poison: 5 });
    balloon.rig.driver.writeConfig(CONFIG.actual, 4, 3);
    balloon.rig.machine.settle();
    balloon.rig.driver.status = 0;
    expect(balloon.rig.driver.status).toBe(0);
    expect(balloon.device.actual).toBe(0);
    expect(balloon.device.target).toBe(4 * PAGE);
    expect(balloon.rig.driver.readConfig(CONFIG.poison, 4)).toBe(0);
  });
});

describe('features', () => {
  const bits = ({ device }: ReturnType<typeof newBalloon>): number[] =>
    Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => device.features.has(bit));

  test('are all but free page hinting', () => {
    expect(bits(newBalloon())).toEqual([0, 1, 2, 4, 5]);
  });

  test('leave deflation on OOM out where the host wants to keep what it got', () => {
    expect(bits(newBalloon({ deflateOnOom: false }))).not.toContain(BALLOON_F.deflateOnOom);
  });
});

describe('saved state', () => {
  test('has target, actual and the value of free pages in it', async () => {
    const before = newBalloon({ size: 9 * PAGE });
    drive(before, { poison: 0xaaaa_aaaa });
    before.rig.driver.writeConfig(CONFIG.actual, 4, 6);
    before.rig.machine.settle();
    await before.rig.core.pause();
    expect(before.device.save()).toEqual({ target: 9, actual: 6, poison: 0xaaaa_aaaa });
    const after = newBalloon();
    after.device.restore(JSON.parse(JSON.stringify(before.device.save())));
    expect([after.device.target, after.device.actual]).toEqual([9 * PAGE, 6 * PAGE]);
    expect(after.rig.driver.readConfig(CONFIG.poison, 4)).toBe(0xaaaa_aaaa);
  });

  test.each([
    ['nothing', undefined],
    ['a field that is missing', { target: 1, actual: 1 }],
    ['a target above RAM', { target: RAM / PAGE + 1, actual: 0, poison: 0 }],
    ['a number that is no page count', { target: 0, actual: 2 ** 32, poison: 0 }],
  ])('is refused with %s', (_, state) => {
    const { device } = newBalloon();
    expect(() => device.restore(state)).toThrow(DeviceStateError);
    expect(device.target).toBe(0);
  });
});
