import { describe, expect, test } from 'vitest';
import { DESC, type Buffer, type DriverQueue, type Placed } from '../driver-queue.ts';
import { HIGH_RAM, LOW_RAM, sameBytes } from '../machine.ts';
import { FEATURE, type Rig } from '../rig.ts';
import type { Bench } from './suite.ts';

type Spoil = (queue: DriverQueue, buffers: Placed[]) => void;

const readable = (address: number, length: number): Placed => ({ address, length, writable: false });
const writable = (address: number, length: number): Placed => ({ address, length, writable: true });

/** Makes available a chain of descriptors as they are, linked in order. */
function raw(queue: DriverQueue, buffers: readonly Placed[]): void {
  queue.chain(buffers);
}

/** Makes available one descriptor that names an indirect table. */
function indirect(queue: DriverQueue, table: Placed, flags: number = DESC.indirect, next = 0): void {
  const head = queue.descriptor();
  queue.writeDescriptor(queue.at.descriptors, head, table, flags, next);
  queue.available(head);
}

/** Chains that the device must not work on (VIRTIO 1.2, 2.7.5), and how to make them of a good request. */
const FAULTS: readonly (readonly [string, readonly number[], Spoil])[] = [
  [
    'next beyond the table',
    [],
    (queue, [first]) => {
      const head = queue.descriptor();
      queue.writeDescriptor(queue.at.descriptors, head, first!, DESC.next, queue.size);
      queue.available(head);
    },
  ],
  [
    'a descriptor that is its own next',
    [],
    (queue, [first]) => {
      const head = queue.descriptor();
      queue.writeDescriptor(queue.at.descriptors, head, first!, DESC.next, head);
      queue.available(head);
    },
  ],
  [
    'a loop over several descriptors',
    [],
    (queue, [first]) => {
      const loop = [queue.descriptor(), queue.descriptor(), queue.descriptor()];
      loop.forEach((at, i) =>
        queue.writeDescriptor(queue.at.descriptors, at, first!, DESC.next, loop[(i + 1) % 3]),
      );
      queue.available(loop[0]!, loop);
    },
  ],
  [
    'a loop of writable descriptors',
    [],
    (queue) => {
      const loop = [queue.descriptor(), queue.descriptor()];
      const [place] = queue.place([{ room: 16 }]);
      loop.forEach((at, i) =>
        queue.writeDescriptor(queue.at.descriptors, at, place!, DESC.next, loop[(i + 1) % 2]),
      );
      queue.available(loop[0]!, loop);
    },
  ],
  ['an address in the hole between RAM', [], (queue) => raw(queue, [readable(LOW_RAM + 0x1000, 16)])],
  ['a buffer that ends in the hole', [], (queue) => raw(queue, [writable(LOW_RAM - 8, 16)])],
  [
    'a buffer over all of the hole',
    [],
    (queue) => raw(queue, [writable(LOW_RAM - 8, HIGH_RAM.base - LOW_RAM + 16)]),
  ],
  ['a buffer of length 4 GiB - 1', [], (queue) => raw(queue, [writable(0x1000, 0xffff_ffff)])],
  ['an address at the end of 64 bits', [], (queue) => raw(queue, [readable(2 ** 64 - 4096, 8192)])],
  ['an address above 2^53', [], (queue) => raw(queue, [writable(2 ** 60 + 0x1000, 16)])],
  ['a descriptor of length 0', [], (queue) => raw(queue, [readable(0x1000, 0)])],
  [
    'a descriptor of length 0 among others',
    [],
    (queue, [first]) => raw(queue, [first!, writable(0x1000, 0)]),
  ],
  [
    'a writable descriptor before a readable one',
    [],
    (queue, [first]) => raw(queue, [...queue.place([{ room: 16 }]), { ...first!, writable: false }]),
  ],
  ['INDIRECT where it is not negotiated', [], (queue, buffers) => indirect(queue, queue.table(buffers))],
  [
    'INDIRECT with NEXT',
    [FEATURE.indirect],
    (queue, buffers) => {
      const next = queue.descriptor();
      queue.writeDescriptor(queue.at.descriptors, next, buffers[0]!, 0);
      indirect(queue, queue.table(buffers), DESC.indirect | DESC.next, next);
    },
  ],
  [
    'an indirect table in an indirect table',
    [FEATURE.indirect],
    (queue, buffers) => {
      const [outer] = queue.place([{ bytes: new Uint8Array(16) }]);
      queue.writeDescriptor(outer!.address, 0, queue.table(buffers), DESC.indirect);
      indirect(queue, outer!);
    },
  ],
  [
    'an indirect table that names itself',
    [FEATURE.indirect],
    (queue) => {
      const [table] = queue.place([{ bytes: new Uint8Array(16) }]);
      queue.writeDescriptor(table!.address, 0, table!, DESC.indirect);
      indirect(queue, table!);
    },
  ],
  [
    'an indirect table of length 0',
    [FEATURE.indirect],
    (queue, buffers) => indirect(queue, { ...queue.table(buffers), length: 0 }),
  ],
  [
    'an indirect table of a length that is no multiple of 16',
    [FEATURE.indirect],
    (queue, buffers) => indirect(queue, { ...queue.table(buffers), length: 24 }),
  ],
  [
    'an indirect table with more entries than the queue',
    [FEATURE.indirect],
    (queue, buffers) => indirect(queue, { ...queue.table(buffers), length: 16 * (queue.size + 1) }),
  ],
  [
    'an indirect table outside RAM',
    [FEATURE.indirect],
    (queue) => indirect(queue, readable(LOW_RAM + 0x100, 32)),
  ],
  [
    'an indirect table that ends outside RAM',
    [FEATURE.indirect],
    (queue) => indirect(queue, readable(LOW_RAM - 16, 32)),
  ],
  [
    'next beyond the indirect table',
    [FEATURE.indirect],
    (queue, [first]) => {
      const table = queue.table([first!]);
      queue.writeDescriptor(table.address, 0, first!, DESC.next, 1);
      indirect(queue, table);
    },
  ],
  [
    'a loop in an indirect table',
    [FEATURE.indirect],
    (queue, [first]) => {
      const table = queue.table([first!, first!]);
      queue.writeDescriptor(table.address, 1, first!, DESC.next, 0);
      indirect(queue, table);
    },
  ],
  [
    'a chain that is longer than the queue by its indirect part',
    [FEATURE.indirect],
    (queue, [first]) => {
      const head = queue.descriptor();
      const tail = queue.descriptor();
      const table = queue.table(Array<Placed>(queue.size).fill(first!));
      queue.writeDescriptor(queue.at.descriptors, head, first!, DESC.next, tail);
      queue.writeDescriptor(queue.at.descriptors, tail, table, DESC.indirect);
      queue.available(head, [head, tail]);
    },
  ],
];

/** VIRTIO 1.2, 2.7.4 to 2.7.6: chains, whole and broken. */
export function chains({ rig: newRig, request, ...bench }: Bench): void {
  describe('a broken chain is used with length 0 and nothing written, and the device goes on', () => {
    test.each(FAULTS)('%s', async (_, bits, spoil) => {
      const rig = newRig();
      rig.start({ bits, queueSize: 8 });
      const queue = rig.queue(request.queue);
      const buffers = queue.place(request.buffers());
      spoil(queue, buffers);
      queue.publish();
      const before = withoutUsedRing(rig, queue);
      rig.driver.notify(queue.index);
      await rig.machine.until(() => queue.hasUsed);
      expect(queue.collect()).toMatchObject([{ written: 0 }]);
      expect(rig.driver.interrupts().queues).toBe(true);
      expect(sameBytes(withoutUsedRing(rig, queue), before)).toBe(true);
      expect(rig.driver.status).toBe(0x0f);
      await bench.serves(rig);
    });
  });

  describe('a whole chain is served', () => {
    test('with the readable part in descriptors of one byte', async () => {
      const rig = newRig();
      rig.start({ queueSize: 64 });
      const queue = rig.queue(request.queue);
      const buffers = request
        .buffers()
        .flatMap((buffer): Buffer[] =>
          'bytes' in buffer ? [...buffer.bytes].map((byte) => ({ bytes: Uint8Array.of(byte) })) : [buffer],
        );
      // as far as the queue has descriptors for it
      const fits = buffers.length <= queue.size ? buffers : request.buffers();
      const { reply, written } = await rig.ask(queue, fits);
      request.check(reply, written);
    });

    test('in an indirect table', async () => {
      const rig = newRig();
      rig.start({ bits: [FEATURE.indirect] });
      await bench.serves(rig, { indirect: true });
    });

    test('in descriptors of the ring with the rest in an indirect table', async () => {
      const rig = newRig();
      rig.start({ bits: [FEATURE.indirect] });
      const queue = rig.queue(request.queue);
      const [first, ...rest] = queue.place(request.buffers());
      if (rest.length === 0) {
        await bench.serves(rig, { indirect: true });
        return;
      }
      const head = queue.descriptor();
      const tail = queue.descriptor();
      queue.writeDescriptor(queue.at.descriptors, head, first!, DESC.next, tail);
      // The write flag of a descriptor for a table means nothing (2.7.5.3.2).
      queue.writeDescriptor(queue.at.descriptors, tail, queue.table(rest), DESC.indirect | DESC.write);
      queue.available(head, [head, tail], [first!, ...rest]);
      queue.publish();
      rig.driver.notify(queue.index);
      await rig.machine.until(() => queue.hasUsed);
      const [used] = queue.collect();
      request.check(queue.reply(used!.buffers), used!.written);
    });

    test('in an indirect table whose entries are linked in another order', async () => {
      const rig = newRig();
      rig.start({ bits: [FEATURE.indirect] });
      const queue = rig.queue(request.queue);
      const buffers = queue.place(request.buffers());
      const table = queue.table([...buffers, ...buffers]);
      const order = buffers.map((_, i) => (i === 0 ? 0 : 2 * buffers.length - i));
      buffers.forEach((buffer, i) => {
        const next = order[i + 1];
        queue.writeDescriptor(table.address, order[i]!, buffer, next === undefined ? 0 : DESC.next, next);
      });
      const head = queue.descriptor();
      queue.writeDescriptor(queue.at.descriptors, head, table, DESC.indirect);
      queue.available(head, [head], buffers);
      queue.publish();
      rig.driver.notify(queue.index);
      await rig.machine.until(() => queue.hasUsed);
      const [used] = queue.collect();
      request.check(queue.reply(used!.buffers), used!.written);
    });
  });
}

/** Guest RAM but for the ring that the device writes to. */
function withoutUsedRing(rig: Rig, queue: DriverQueue): Uint8Array[] {
  const pieces = rig.machine.snapshot();
  pieces[0]!.fill(0, queue.at.device, queue.at.device + 6 + 8 * queue.size);
  return pieces;
}
