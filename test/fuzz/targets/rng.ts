import { EntropyDevice } from '../../../src/devices/rng/device.ts';
import type { FuzzSegment } from '../chain-builder.ts';
import { BUFFERS, DeviceHarness, END } from '../device-harness.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

const newDevice = (): EntropyDevice => new EntropyDevice({ name: 'rng0' });

/** Pieces one after the other from a random place on: what is readable first, then room. */
function segments(random: Random): FuzzSegment[] {
  const list: FuzzSegment[] = [];
  const readable = random.oneIn(8) ? random.between(1, 2) : 0;
  const writable = readable > 0 && random.oneIn(2) ? 0 : random.between(1, 4);
  let at = BUFFERS.base + random.below(0x1000);
  for (let i = 0; i < readable + writable; i++) {
    const length = random.pick([1, random.between(1, 64), random.between(1, 512)]);
    list.push({ address: at, length, writable: i >= readable });
    at += length;
  }
  return list;
}

const room = (list: readonly FuzzSegment[]): number =>
  list.reduce((sum, { writable, length }) => sum + (writable ? length : 0), 0);

async function run(random: Random): Promise<void> {
  const harness = new DeviceHarness(random, newDevice());
  const image = new Uint8Array(END);
  harness.start(0, [0]);
  for (let round = random.between(1, 4); round > 0; round--) {
    const queue = harness.queues[0]!;
    const written: FuzzSegment[] = [];
    for (let i = random.between(1, 8); i > 0; i--) {
      const list = segments(random);
      if (harness.add(0, list)) written.push(...list.filter(({ writable }) => writable));
    }
    harness.ram.copyTo(image);
    if (random.oneIn(8)) await harness.core.pause();
    harness.notify(0);
    if (random.oneIn(8) && !harness.spoiled) await harness.move(newDevice());
    else harness.core.resume();
    if (harness.spoiled) await harness.settle();
    else await harness.settle(() => queue.idle);
    harness.ram.checkGuards();
    if (!harness.spoiled) {
      // nothing has changed but the room that there was, and the rings
      const { memory } = harness.ram;
      for (const { address, length } of written) image.set(memory.read(address, length), address);
      image.set(memory.read(0, 0x1000), 0);
      harness.ram.check(image);
      for (const { written: count, chain } of queue.collect()) {
        if (count !== room(chain.segments))
          throw new Error(`${count} bytes for room of ${room(chain.segments)}`);
      }
      if (queue.outstanding.size > 0) throw new Error('a request is not answered');
    } else if (harness.failed || random.oneIn(2)) {
      harness.start(0, [0]);
      harness.spoiled = false;
    } else return;
  }
  void harness.core.reset();
}

/** The entropy device: every whole request is filled, and nothing else is touched. */
export const rngTarget: FuzzTarget = { name: 'rng', run };
