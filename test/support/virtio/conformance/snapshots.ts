import { describe, expect, test } from 'vitest';
import type { CoreState } from '../../../../src/virtio/core-state.ts';
import { FakeMachine, LOW_RAM } from '../machine.ts';
import { FEATURE, type Rig } from '../rig.ts';
import type { Bench } from './suite.ts';

/** A device saved in one process and restored in another, as plain data. */
export function snapshots({ rig: newRig, request, ...bench }: Bench): void {
  const saved = async (rig: Rig): Promise<unknown> => {
    await rig.core.pause();
    return JSON.parse(JSON.stringify(rig.save())) as unknown;
  };

  /** Another machine with the same memory. */
  const copyOf = (rig: Rig): FakeMachine => {
    const machine = new FakeMachine(bench.memory);
    rig.machine.memory.ranges.forEach(({ base }, i) =>
      machine.memory.write(base, rig.machine.snapshot()[i]!),
    );
    return machine;
  };

  /** The core's part of the state, wherever the transport puts it. */
  const coreOf = (state: unknown): CoreState => {
    let core: CoreState | undefined;
    JSON.stringify(state, (key, value: unknown) => {
      if (key === 'core') core = value as CoreState;
      return value;
    });
    return core!;
  };

  describe('save and restore', () => {
    test('a running device goes on serving its queues', async () => {
      const before = newRig();
      before.start({ bits: [FEATURE.indirect, FEATURE.eventIdx] });
      for (let i = 0; i < 5; i++) await bench.serves(before);
      before.driver.interrupts();
      const state = await saved(before);
      const after = newRig(copyOf(before));
      after.restore(state);
      after.core.resume();
      after.queues = before.queues.map(
        (queue) => queue && Object.assign(Object.create(queue) as typeof queue, {}),
      );
      after.machine.settle();
      expect(after.driver.status).toBe(0x0f);
      // The driver in the other machine is this one with its rings; it reads and writes the memory it was made with.
      const sync = (from: Rig, to: Rig): void =>
        from.machine.memory.ranges.forEach(({ base }, i) =>
          to.machine.memory.write(base, from.machine.snapshot()[i]!),
        );
      const queue = before.queue(request.queue);
      queue.chain(queue.place(request.buffers()), { indirect: true });
      queue.publish();
      queue.usedEvent = queue.usedIndex;
      sync(before, after);
      after.driver.notify(queue.index);
      await after.machine.until(
        () => after.machine.memory.readU16(queue.at.device + 2) === queue.availableIndex,
      );
      sync(after, before);
      const [used] = queue.collect();
      request.check(queue.reply(used!.buffers), used!.written);
      expect(after.driver.interrupts().queues).toBe(true);
    });

    test('requests that wait in the queue are served after the restore', async () => {
      const before = newRig();
      before.start();
      await before.core.pause();
      const queue = before.queue(request.queue);
      before.send(queue, request.buffers());
      const state = await saved(before);
      const after = newRig(copyOf(before));
      after.restore(state);
      after.core.resume();
      await after.machine.until(() => after.machine.memory.readU16(queue.at.device + 2) === 1);
    });

    test('a device that no driver has touched comes back so', async () => {
      const state = await saved(newRig());
      const after = newRig();
      after.restore(state);
      after.core.resume();
      expect(after.driver.status).toBe(0);
      after.start();
      await bench.serves(after);
    });

    test('a device that needs a reset comes back so', async () => {
      const before = newRig();
      before.start();
      const queue = before.queue(request.queue);
      queue.publish(queue.availableIndex + 0x8000);
      before.driver.notify(queue.index);
      await before.machine.until(() => before.driver.status === 0x4f);
      const state = await saved(before);
      const after = newRig(copyOf(before));
      after.restore(state);
      after.core.resume();
      expect(after.driver.status).toBe(0x4f);
      after.start();
      await bench.serves(after);
    });

    test('a device is saved only while it is paused', () => {
      const rig = newRig();
      rig.start();
      expect(() => rig.save()).toThrow(/paused/);
    });
  });

  describe('a state that makes no sense is refused and changes nothing', () => {
    const queueOf = (core: CoreState): CoreState['queues'][number] => core.queues[request.queue]!;
    const DAMAGE: readonly (readonly [string, (core: CoreState) => void])[] = [
      ['a status that no driver reaches', (core) => (core.status = 0x05)],
      ['reserved status bits', (core) => (core.status |= 0x10)],
      ['features that are not offered', (core) => (core.driverFeatures[0] |= 1 << 30)],
      ['no VERSION_1', (core) => (core.driverFeatures[1] = 0)],
      ['a queue too many', (core) => core.queues.push(structuredClone(core.queues[0]!))],
      ['a queue too few', (core) => core.queues.pop()],
      ['a queue size that is no power of two', (core) => (queueOf(core).size = 15)],
      ['a queue size above the limit', (core) => (queueOf(core).size = 32768)],
      ['a descriptor table outside RAM', (core) => (queueOf(core).descriptors = [LOW_RAM + 0x1000, 0])],
      ['an available ring above 4 GiB', (core) => (queueOf(core).driver[1] = 1)],
      ['a misaligned used ring', (core) => (queueOf(core).device[0] += 2)],
      ['an available index that does not fit', (core) => (queueOf(core).progress!.available ^= 0x4000)],
      ['a used index that does not fit', (core) => (queueOf(core).progress!.used ^= 1)],
      [
        'both indices far from the ring',
        (core) => {
          queueOf(core).progress!.available ^= 0x4000;
          queueOf(core).progress!.used ^= 0x4000;
        },
      ],
      [
        'a chain in flight that is no descriptor',
        (core) => {
          queueOf(core).progress!.inFlight.push(16);
          queueOf(core).progress!.used = (queueOf(core).progress!.used - 1) & 0xffff;
        },
      ],
      [
        'a chain twice in flight',
        (core) => {
          queueOf(core).progress!.inFlight.push(1, 1);
          queueOf(core).progress!.used = (queueOf(core).progress!.used - 2) & 0xffff;
        },
      ],
      ['an index that is no number', (core) => (queueOf(core).progress!.used = NaN)],
      ['a negative index', (core) => (queueOf(core).progress!.available = -1)],
      ['progress of a queue that is not ready', (core) => (queueOf(core).ready = false)],
      ['a ready queue without progress', (core) => delete queueOf(core).progress],
      ['a member that is not known', (core) => Object.assign(core, { extra: 1 })],
    ];

    test.each(DAMAGE)('%s', async (_, damage) => {
      const before = newRig();
      before.start({ queueSize: 16 });
      await bench.serves(before);
      const state = await saved(before);
      damage(coreOf(state));
      const after = newRig(copyOf(before));
      expect(() => after.restore(state)).toThrow(/state of/);
      expect(after.driver.status).toBe(0);
      after.start();
      await bench.serves(after);
    });

    test.each([[undefined], [null], [7], [[]], [{}], [{ core: {} }]])('%j', (state) => {
      const rig = newRig();
      expect(() => rig.restore(state)).toThrow(/state of/);
    });
  });
}
