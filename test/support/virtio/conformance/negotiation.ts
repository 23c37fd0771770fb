import { describe, expect, test } from 'vitest';
import { sameBytes } from '../machine.ts';
import { FEATURE } from '../rig.ts';
import type { Bench } from './suite.ts';

/** VIRTIO 1.2, 2.1 (status), 2.2 (features), 2.4 (reset), 3.1 (initialisation). */
export function negotiation({ rig: newRig, ...bench }: Bench): void {
  describe('features', () => {
    test('are offered in words 0 and 1, with VERSION_1, INDIRECT_DESC and EVENT_IDX among them', () => {
      const { driver, device } = newRig();
      expect(driver.deviceFeatures(0)).toBe((device.features.low | (3 << 28)) >>> 0);
      expect(driver.deviceFeatures(1)).toBe((device.features.high | 1) >>> 0);
    });

    test.each([2, 3, 0x8000_0000, 0xffff_ffff])('word %i is 0', (select) => {
      expect(newRig().driver.deviceFeatures(select)).toBe(0);
    });

    test('FEATURES_OK reads back as 0 where the driver accepts a bit that is not offered', () => {
      const rig = newRig();
      rig.driver.status = 1;
      rig.driver.status = 3;
      rig.acceptFeatures();
      // bit 30 is reserved (6) and never offered
      rig.driver.acceptFeatures(0, 1 << 30);
      rig.driver.status = 0x0b;
      expect(rig.driver.status).toBe(3);
    });

    test('FEATURES_OK reads back as 0 where the driver accepts a bit above 63', () => {
      const rig = newRig();
      rig.driver.status = 1;
      rig.driver.status = 3;
      rig.acceptFeatures();
      rig.driver.acceptFeatures(2, 1);
      rig.driver.status = 0x0b;
      expect(rig.driver.status).toBe(3);
    });

    test('FEATURES_OK reads back as 0 without VERSION_1', () => {
      const rig = newRig();
      rig.driver.status = 1;
      rig.driver.status = 3;
      rig.acceptFeatures([]);
      rig.driver.status = 0x0b;
      expect(rig.driver.status).toBe(3);
    });

    test('a driver that was refused may choose others', () => {
      const rig = newRig();
      rig.driver.status = 1;
      rig.driver.status = 3;
      rig.acceptFeatures([]);
      rig.driver.status = 0x0b;
      rig.acceptFeatures([FEATURE.version1]);
      rig.driver.status = 0x0b;
      expect(rig.driver.status).toBe(0x0b);
    });

    test('cannot be changed after FEATURES_OK', () => {
      const rig = newRig();
      rig.negotiate();
      rig.driver.acceptFeatures(0, 0xffff_ffff);
      rig.driver.acceptFeatures(1, 0);
      rig.driver.status = 0x0f;
      expect(rig.driver.status).toBe(0x0f);
      expect(rig.core.driverFeatures & 1).toBe(1);
    });

    test('cannot be chosen before DRIVER', () => {
      const rig = newRig();
      rig.driver.status = 1;
      rig.acceptFeatures();
      rig.driver.status = 3;
      rig.driver.status = 0x0b;
      expect(rig.driver.status).toBe(3);
    });
  });

  describe('status', () => {
    test('is 0 at first', () => {
      expect(newRig().driver.status).toBe(0);
    });

    test.each([
      ['DRIVER before ACKNOWLEDGE', 0, 2],
      ['two bits at once', 0, 3],
      ['FEATURES_OK before DRIVER', 1, 9],
      ['DRIVER_OK before FEATURES_OK', 3, 7],
      ['clearing ACKNOWLEDGE', 3, 2],
      ['clearing DRIVER', 3, 1],
      ['repeating what is set', 3, 3],
      ['a reserved bit', 3, 0x13],
      ['DEVICE_NEEDS_RESET from the driver', 3, 0x43],
    ])('%s has no effect', (_, from, written) => {
      const { driver } = newRig();
      for (const step of [1, 3].filter((each) => each <= from)) driver.status = step;
      driver.status = written;
      expect(driver.status).toBe(from);
    });

    test('FAILED can be set at any time, and nothing follows it but a reset', () => {
      const { driver } = newRig();
      driver.status = 1;
      driver.status = 0x81;
      expect(driver.status).toBe(0x81);
      driver.status = 0x83;
      expect(driver.status).toBe(0x81);
      driver.status = 0;
      expect(driver.status).toBe(0);
    });

    test('registers of other widths and registers that cannot be written are left alone', () => {
      const rig = newRig();
      rig.negotiate();
      rig.driver.misuse();
      expect(rig.driver.status).toBe(0x0b);
      rig.start();
      rig.driver.misuse();
      expect(rig.driver.status).toBe(0x0f);
    });
  });

  describe('reset', () => {
    test('clears status, queues, interrupts, selectors and what was negotiated', async () => {
      const rig = newRig();
      rig.start({ bits: [FEATURE.indirect] });
      await bench.serves(rig);
      rig.driver.status = 0;
      await rig.machine.until(() => rig.driver.status === 0);
      expect(new Set(rig.driver.leftovers())).toEqual(new Set([0]));
      rig.negotiate();
      for (const [index, limit] of rig.device.queueSizes.entries()) {
        rig.driver.selectQueue(index);
        expect(rig.driver.queueSizeLimit()).toBe(limit);
        expect(rig.driver.queueEnabled()).toBe(false);
      }
      expect(rig.core.driverFeatures & 0x3000_0000).toBe(0);
    });

    test('lets no used entry and no byte of data out once status reads 0', async () => {
      const rig = newRig();
      rig.start();
      const queue = rig.queue(bench.request.queue);
      for (let i = 0; i < 4; i++) rig.send(queue, bench.request.buffers());
      rig.machine.notifier.deliver();
      rig.driver.status = 0;
      await rig.machine.until(() => rig.driver.status === 0);
      // those from before the reset
      rig.driver.interrupts();
      const then = rig.machine.snapshot();
      await rig.machine.pass(50);
      expect(sameBytes(rig.machine.snapshot(), then)).toBe(true);
      expect(rig.driver.interrupts()).toEqual({ queues: false, config: false });
    });

    test('works while the device is paused', async () => {
      const rig = newRig();
      rig.start();
      await rig.core.pause();
      rig.driver.status = 0;
      await rig.machine.until(() => rig.driver.status === 0);
      rig.core.resume();
      rig.start();
      await bench.serves(rig);
    });

    test('ends at any step of the initialisation', () => {
      const { driver } = newRig();
      const steps = [1, 3];
      for (let length = 1; length <= steps.length; length++) {
        for (const step of steps.slice(0, length)) driver.status = step;
        driver.status = 0;
        expect(driver.status).toBe(0);
      }
    });

    test('lets the driver start again, and again with queues of another size', async () => {
      const rig = newRig();
      for (const queueSize of [16, 8, 32]) {
        rig.start({ queueSize });
        await bench.serves(rig);
      }
    });

    test('does not set the generation of the configuration space back', async () => {
      const rig = newRig();
      rig.start();
      bench.changeConfig?.(rig.device);
      const before = rig.driver.generation();
      rig.driver.status = 0;
      await rig.machine.until(() => rig.driver.status === 0);
      expect(rig.driver.generation()).toBeGreaterThanOrEqual(before);
    });

    test('forgets notifications that were on their way', async () => {
      const rig = newRig();
      rig.start();
      rig.driver.notify(bench.request.queue);
      rig.driver.status = 0;
      await rig.machine.until(() => rig.driver.status === 0);
      rig.machine.settle();
      expect(rig.machine.notifier.attached.size).toBe(0);
      rig.start();
      await bench.serves(rig);
    });
  });

  describe('DEVICE_NEEDS_RESET', () => {
    const broken = async (): Promise<ReturnType<typeof newRig>> => {
      const rig = newRig();
      rig.start();
      await bench.serves(rig);
      rig.driver.interrupts();
      const queue = rig.queue(bench.request.queue);
      queue.publish(queue.availableIndex + queue.size + 1);
      rig.driver.notify(queue.index);
      await rig.machine.until(() => (rig.driver.status & 0x40) !== 0);
      return rig;
    };

    test('is told with a configuration interrupt, and in one line of the log', async () => {
      const rig = await broken();
      expect(rig.driver.status).toBe(0x4f);
      expect(rig.driver.interrupts().config).toBe(true);
      expect(rig.machine.reports).toHaveLength(1);
    });

    test('stays until the reset, whatever the driver writes', async () => {
      const rig = await broken();
      rig.driver.status = 0x0f;
      expect(rig.driver.status).toBe(0x4f);
      rig.driver.status = 0x8f;
      expect(rig.driver.status).toBe(0xcf);
    });

    test('ends all work on the queues', async () => {
      const rig = await broken();
      const queue = rig.queue(bench.request.queue);
      const before = queue.deviceIndex;
      rig.send(queue, bench.request.buffers());
      await rig.machine.pass(5);
      expect(queue.deviceIndex).toBe(before);
    });

    test('is over after a reset', async () => {
      const rig = await broken();
      rig.driver.status = 0;
      await rig.machine.until(() => rig.driver.status === 0);
      rig.start();
      await bench.serves(rig);
    });
  });
}
