import { expect, test } from 'vitest';
import { runToHalt, tinyGuests, withVcpus } from '../support/tiny-guests.ts';
import { real } from '../support/x86.ts';

const PORT = 0x500;
/** Channel::kCapacity of native/channel.h */
const CAPACITY = 4096;

const guest = tinyGuests();

const standStill = (ms: number): void => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
};

/** Writes 1, 2, 3 ... `count` to the port. */
const countUp = (count: number): number[] => [
  ...real.movDx(PORT),
  ...real.movEcx(count),
  ...real.movEax(0),
  ...real.loopEcx([...real.incEax, ...real.outDxEax]),
];

test('100,000 posted writes to a slow device all arrive, in order, never more than the ring ahead', async () => {
  const count = 100_000;
  const tiny = guest(countUp(count));
  let seen = 0;
  let wrong = 0;
  let furthest = 0;
  tiny.vm.add({
    name: 'slow',
    space: 'pio',
    base: PORT,
    size: 4,
    reads: 'trap',
    writes: 'posted',
    write: (_offset, _size, value) => {
      if (value !== ++seen) wrong++;
      if (seen % 10_000 !== 0) return;
      // the guest fills the ring meanwhile, and no more than that
      standStill(50);
      furthest = Math.max(furthest, tiny.vm.counters()[0]!.writes - seen);
    },
  });
  await runToHalt(tiny);
  expect({ seen, wrong }).toEqual({ seen: count, wrong: 0 });
  // one write may wait beside a full ring and an undelivered batch
  expect(furthest).toBeLessThanOrEqual(CAPACITY + 1);
  expect(tiny.vm.counters()[0]).toMatchObject({ name: 'slow', writes: count });
}, 120_000);

test('a full ring makes the guest wait until JavaScript has drained it', async () => {
  const tiny = guest(countUp(CAPACITY + 500));
  const seen: number[] = [];
  tiny.vm.add({
    name: 'device',
    space: 'pio',
    base: PORT,
    size: 4,
    reads: 'trap',
    writes: 'posted',
    write: (_offset, _size, value) => void seen.push(value),
  });
  const halted = runToHalt(tiny);
  // JavaScript stands still, so that nothing is drained
  const written = (): number => tiny.vm.counters()[0]!.writes;
  const until = performance.now() + 20_000;
  while (performance.now() < until && written() <= CAPACITY) standStill(5);
  standStill(50);
  expect(written()).toBe(CAPACITY + 1);
  expect(seen).toEqual([]);
  await halted;
  expect(seen).toEqual(Array.from({ length: CAPACITY + 500 }, (_, i) => i + 1));
  expect(tiny.vm.counters()[0]!.waits).toBeGreaterThan(0);
});

test('several vCPUs share the ring: each one keeps its own order', async () => {
  // dx has the port
  const tiny = guest(real.movEcx(5000), real.movEax(0), real.loopEcx([...real.incEax, ...real.outDxEax]));
  const vcpus = withVcpus(tiny, 4);
  const last = [0, 0, 0, 0];
  let wrong = 0;
  tiny.vm.add({
    name: 'four',
    space: 'pio',
    base: PORT,
    size: 16,
    reads: 'trap',
    writes: 'posted',
    write: (offset, _size, value) => {
      if (value !== last[offset / 4]! + 1) wrong++;
      last[offset / 4] = value;
    },
  });
  vcpus.forEach((vcpu, i) => vcpu.setRegs({ ...vcpu.regs(), rdx: BigInt(PORT + 4 * i) }));
  let halted = 0;
  await new Promise<void>((resolve) => {
    tiny.vm.onExit = () => {
      if (++halted === vcpus.length) resolve();
    };
    tiny.vm.resume();
  });
  expect({ wrong, last }).toEqual({ wrong: 0, last: [5000, 5000, 5000, 5000] });
});
