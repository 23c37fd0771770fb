import { describe, expect, test } from 'vitest';
import { FEATURE, type Rig } from '../rig.ts';
import type { Bench } from './suite.ts';

/** VIRTIO 1.2, 2.7.6 to 2.7.10 (rings and suppression), 4.1.5 and 4.2.3 (interrupts), 2.5 (configuration). */
export function rings({ rig: newRig, request, changeConfig, ...bench }: Bench): void {
  // The search through a hundred windows takes its time, and finds nothing new in the ten thousandth request.
  const wrapRequests = bench.memory === 'one window' ? (bench.wrapRequests ?? 66_000) : 160;

  /** Sends requests one after the other and waits for each. */
  const exchange = async (rig: Rig, count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      await bench.serves(rig);
      rig.buffers.clear();
    }
  };

  describe('the available ring', () => {
    test.each([
      ['an index further ahead than there are entries', 17],
      ['an index that goes back', -1],
      ['an index half way round', 0x8000],
    ])('%s ends in DEVICE_NEEDS_RESET', async (_, jump) => {
      const rig = newRig();
      rig.start({ queueSize: 16 });
      const queue = rig.queue(request.queue);
      queue.publish(queue.availableIndex + (jump === 17 ? queue.size + 1 : jump) + 0x10000);
      rig.driver.notify(queue.index);
      await rig.machine.until(() => rig.driver.status === 0x4f);
      expect(queue.hasUsed).toBe(false);
    });

    test('a head that is no descriptor ends in DEVICE_NEEDS_RESET', async () => {
      const rig = newRig();
      rig.start({ queueSize: 16 });
      const queue = rig.queue(request.queue);
      queue.available(queue.size);
      queue.publish();
      rig.driver.notify(queue.index);
      await rig.machine.until(() => rig.driver.status === 0x4f);
    });

    test('requests made without a notification are served with the next one', async () => {
      const rig = newRig();
      rig.start();
      const queue = rig.queue(request.queue);
      for (let i = 0; i < 3; i++) queue.chain(queue.place(request.buffers()));
      queue.publish();
      rig.driver.notify(queue.index);
      await rig.machine.until(() => ((queue.deviceIndex - queue.usedIndex) & 0xffff) === 3);
      for (const used of queue.collect()) request.check(queue.reply(used.buffers), used.written);
    });
  });

  describe('the used ring', () => {
    test('names each request once, in a full ring as well', async () => {
      const rig = newRig();
      rig.start({ queueSize: 64 });
      const queue = rig.queue(request.queue);
      const count = Math.floor(queue.size / request.buffers().length);
      const heads = Array.from({ length: count }, () => queue.chain(queue.place(request.buffers())));
      queue.publish();
      rig.driver.notify(queue.index);
      await rig.machine.until(() => ((queue.deviceIndex - queue.usedIndex) & 0xffff) === count);
      expect(
        queue
          .collect()
          .map(({ head }) => head)
          .sort((a, b) => a - b),
      ).toEqual(heads.sort((a, b) => a - b));
    });

    test(`goes on where its index wraps (${wrapRequests} requests)`, { timeout: 120_000 }, async () => {
      const rig = newRig();
      rig.start({ queueSize: 64, bits: [FEATURE.eventIdx] });
      const queue = rig.queue(request.queue);
      const batch = Math.floor(queue.size / request.buffers().length);
      for (let done = 0; done < wrapRequests; done += batch) {
        rig.buffers.clear();
        for (let i = 0; i < batch; i++) queue.chain(queue.place(request.buffers()));
        queue.publish();
        queue.usedEvent = queue.availableIndex - 1;
        rig.driver.notify(queue.index);
        await rig.machine.until(() => queue.deviceIndex === queue.availableIndex);
        if (!rig.driver.interrupts().queues) throw new Error(`no interrupt after ${done} requests`);
        const used = queue.collect();
        if (used.length !== batch) throw new Error(`${used.length} answers to ${batch} requests`);
        const last = used.at(-1)!;
        request.check(queue.reply(last.buffers), last.written);
      }
      expect(rig.driver.status).toBe(0x0f);
    });
  });

  describe('interrupts', () => {
    test('come with used buffers, and are gone once acknowledged', async () => {
      const rig = newRig();
      rig.start();
      rig.driver.interrupts();
      await bench.serves(rig);
      expect(rig.driver.interrupts()).toEqual({ queues: true, config: false });
      expect(rig.driver.interrupts()).toEqual({ queues: false, config: false });
    });

    test('do not come where the driver wants none', async () => {
      const rig = newRig();
      rig.start();
      rig.queue(request.queue).interruptsWanted = false;
      await bench.serves(rig);
      expect(rig.driver.interrupts().queues).toBe(false);
      rig.queue(request.queue).interruptsWanted = true;
      await bench.serves(rig);
      expect(rig.driver.interrupts().queues).toBe(true);
    });

    test('with EVENT_IDX come when the used index passes the one that the driver names', async () => {
      const rig = newRig();
      rig.start({ bits: [FEATURE.eventIdx] });
      const queue = rig.queue(request.queue);
      queue.usedEvent = 2;
      const seen: boolean[] = [];
      for (let i = 0; i < 5; i++) {
        await bench.serves(rig);
        seen.push(rig.driver.interrupts().queues);
      }
      expect(seen).toEqual([false, false, true, false, false]);
    });

    test('with EVENT_IDX the NO_INTERRUPT flag means nothing', async () => {
      const rig = newRig();
      rig.start({ bits: [FEATURE.eventIdx] });
      rig.queue(request.queue).interruptsWanted = false;
      await bench.serves(rig);
      expect(rig.driver.interrupts().queues).toBe(true);
    });
  });

  describe('notifications', () => {
    test('are wanted again once the queue is empty', async () => {
      const rig = newRig();
      rig.start();
      await exchange(rig, 3);
      await rig.machine.until(() => rig.queue(request.queue).notificationsWanted);
    });

    test('with EVENT_IDX are wanted of the next request once the queue is empty', async () => {
      const rig = newRig();
      rig.start({ bits: [FEATURE.eventIdx] });
      const queue = rig.queue(request.queue);
      await exchange(rig, 3);
      await rig.machine.until(() => queue.availableEvent === queue.availableIndex);
    });
  });

  describe('configuration space', () => {
    test('reads the same in accesses of any width', () => {
      const rig = newRig();
      const { bytes } = rig.device.config;
      for (let at = 0; at < bytes.length; at++) expect(rig.driver.readConfig(at, 1)).toBe(bytes[at]);
      const view = new DataView(bytes.buffer);
      for (let at = 0; at + 2 <= bytes.length; at += 2)
        expect(rig.driver.readConfig(at, 2)).toBe(view.getUint16(at, true));
      for (let at = 0; at + 4 <= bytes.length; at += 4)
        expect(rig.driver.readConfig(at, 4)).toBe(view.getUint32(at, true));
    });

    test('has bytes that the driver cannot write', () => {
      const rig = newRig();
      rig.start();
      const { bytes, writable } = rig.device.config;
      const before = bytes.slice();
      writable.forEach((may, at) => {
        if (!may) rig.driver.writeConfig(at, 1, before[at]! ^ 0xff);
      });
      rig.machine.settle();
      expect([...bytes]).toEqual([...before]);
    });

    test.runIf(changeConfig)('changes with a new generation and a configuration interrupt', () => {
      const rig = newRig();
      rig.start();
      rig.driver.interrupts();
      const before = rig.driver.generation();
      changeConfig?.(rig.device);
      expect(rig.driver.interrupts()).toEqual({ queues: false, config: true });
      expect(rig.driver.generation()).not.toBe(before);
      expect(rig.driver.readConfig(0, 1)).toBe(rig.device.config.bytes[0]);
    });

    test.runIf(changeConfig)('changes without an interrupt before DRIVER_OK', () => {
      const rig = newRig();
      rig.negotiate();
      changeConfig?.(rig.device);
      expect(rig.driver.interrupts()).toEqual({ queues: false, config: false });
    });
  });
}
