import { describe, expect, test } from 'vitest';
import { HIGH_RAM, LOW_RAM } from '../machine.ts';
import type { Rig } from '../rig.ts';
import type { Bench } from './suite.ts';

/** VIRTIO 1.2, 2.7 (layout), 4.1.4.3 and 4.2.2 (registers), 3.1.1 (when they may be written). */
export function queues({ rig: newRig, request, ...bench }: Bench): void {
  /** A rig at the point where queues are set up, with a sound one selected that is not enabled. */
  const unset = (): { rig: Rig; size: number } => {
    const rig = newRig();
    rig.negotiate();
    rig.driver.selectQueue(request.queue);
    const size = Math.min(8, rig.driver.queueSizeLimit());
    rig.driver.setQueueSize(size);
    rig.driver.setQueueAddress('descriptors', 0x1000);
    rig.driver.setQueueAddress('driver', 0x2000);
    rig.driver.setQueueAddress('device', 0x3000);
    return { rig, size };
  };

  describe('queue registers', () => {
    test('show the largest size of each queue, and 0 for those that are not there', () => {
      const { driver, device } = newRig();
      device.queueSizes.forEach((size, index) => {
        driver.selectQueue(index);
        expect(driver.queueSizeLimit()).toBe(size);
      });
      for (const index of [device.queueSizes.length, 0xff, 0xffff]) {
        driver.selectQueue(index);
        expect(driver.queueSizeLimit()).toBe(0);
      }
    });

    test('a queue that is not there cannot be enabled', () => {
      const rig = newRig();
      rig.negotiate();
      rig.driver.selectQueue(rig.device.queueSizes.length);
      rig.driver.setQueueSize(8);
      rig.driver.setQueueAddress('descriptors', 0x1000);
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(false);
    });

    test('a sound queue is enabled', () => {
      const { rig } = unset();
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(true);
    });

    test.each([0, 3, 7, 2048, 0xffff])('a queue of size %i is not enabled', (size) => {
      const { rig } = unset();
      rig.driver.setQueueSize(size);
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(false);
    });

    test('a queue larger than its limit is not enabled', () => {
      const { rig } = unset();
      rig.driver.setQueueSize(2 * rig.device.queueSizes[request.queue]!);
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(false);
    });

    test('a queue without addresses is not enabled', () => {
      const rig = newRig();
      rig.negotiate();
      rig.driver.selectQueue(request.queue);
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(false);
    });

    test.each([
      ['descriptor table', 'descriptors', 0x1008],
      ['available ring', 'driver', 0x2001],
      ['used ring', 'device', 0x3002],
    ] as const)('a misaligned %s is not enabled', (_, part, address) => {
      const { rig } = unset();
      rig.driver.setQueueAddress(part, address);
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(false);
    });

    test.each(['descriptors', 'driver', 'device'] as const)(
      'a queue whose %s part is outside RAM, ends outside or wraps is not enabled',
      (part) => {
        for (const address of [
          LOW_RAM + 0x1000,
          LOW_RAM - 16,
          HIGH_RAM.base - 16,
          HIGH_RAM.base + HIGH_RAM.size - 16,
          0xffff_fff0n,
          0x1_0000_1000n,
          0xffff_ffff_ffff_fff0n,
        ]) {
          const { rig } = unset();
          rig.driver.setQueueAddress(part, address);
          rig.driver.enableQueue();
          expect(rig.driver.queueEnabled()).toBe(false);
        }
      },
    );

    test('a queue whose parts overlap is not enabled', () => {
      const { rig, size } = unset();
      rig.driver.setQueueAddress('driver', 0x1000 + 16 * size - 2);
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(false);
    });

    test('DRIVER_OK with a queue that was refused ends in DEVICE_NEEDS_RESET', () => {
      const { rig } = unset();
      rig.driver.setQueueAddress('device', LOW_RAM + 0x1000);
      rig.driver.enableQueue();
      rig.driver.status = 0x0f;
      expect(rig.driver.status).toBe(0x4f);
    });

    test('do nothing before FEATURES_OK', () => {
      const rig = newRig();
      rig.driver.status = 1;
      rig.driver.status = 3;
      rig.setUpQueue(request.queue);
      expect(rig.driver.queueEnabled()).toBe(false);
    });

    test('cannot be changed after DRIVER_OK', async () => {
      const rig = newRig();
      rig.start();
      rig.driver.selectQueue(request.queue);
      const before = rig.driver.queueRegisters();
      rig.driver.setQueueSize(1);
      rig.driver.setQueueAddress('descriptors', 0x100);
      rig.driver.setQueueAddress('driver', 0x200);
      rig.driver.setQueueAddress('device', 0x300);
      rig.driver.enableQueue();
      expect(rig.driver.queueEnabled()).toBe(true);
      expect(rig.driver.queueRegisters()).toEqual(before);
      await bench.serves(rig);
    });

    test('cannot be changed while the queue is enabled', async () => {
      const rig = newRig();
      rig.negotiate();
      rig.queues = rig.device.queueSizes.map((_, index) => rig.setUpQueue(index));
      rig.driver.selectQueue(request.queue);
      rig.driver.setQueueSize(1);
      rig.driver.setQueueAddress('descriptors', 0x100);
      rig.driver.status = 0x0f;
      await bench.serves(rig);
    });
  });

  describe('notifications', () => {
    test('of queues that are not ready or not there do no harm', async () => {
      const rig = newRig();
      rig.driver.notify(request.queue);
      rig.negotiate();
      rig.driver.notify(request.queue);
      rig.start();
      for (const index of [rig.device.queueSizes.length, 0xff, 0xffff]) rig.driver.notify(index);
      rig.machine.settle();
      await bench.serves(rig);
    });

    test('before DRIVER_OK use nothing, and the queue is served after it', async () => {
      const rig = newRig();
      rig.negotiate();
      rig.queues = rig.device.queueSizes.map((_, index) => rig.setUpQueue(index));
      const queue = rig.queue(request.queue);
      rig.send(queue, request.buffers());
      await rig.machine.pass(5);
      expect(queue.hasUsed).toBe(false);
      rig.driver.status = 0x0f;
      await rig.machine.until(() => queue.hasUsed);
      const [used] = queue.collect();
      request.check(queue.reply(used!.buffers), used!.written);
    });

    test('of a running device make no vCPU wait', () => {
      const rig = newRig();
      rig.start();
      rig.driver.selectQueue(request.queue);
      rig.machine.settle();
      rig.driver.notify(request.queue);
      const { waits } = rig.machine.bus;
      rig.driver.notify(request.queue);
      expect(rig.machine.bus.waits).toBe(waits);
    });

    test('while the device is paused take effect when it goes on', async () => {
      const rig = newRig();
      rig.start();
      await rig.core.pause();
      const queue = rig.queue(request.queue);
      rig.send(queue, request.buffers());
      await rig.machine.pass(5);
      expect(queue.hasUsed).toBe(false);
      rig.core.resume();
      await rig.machine.until(() => queue.hasUsed);
    });
  });
}
