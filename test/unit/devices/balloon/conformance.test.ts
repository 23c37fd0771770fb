import { expect } from 'vitest';
import { BalloonDevice } from '../../../../src/devices/balloon/device.ts';
import { conformance } from '../../../support/virtio/conformance.ts';
import { HIGH_RAM, LOW_RAM, PAGE } from '../../../support/virtio/machine.ts';

const first = HIGH_RAM.base / PAGE;
/** three pages, one of them twice, and one that is no RAM */
const numbers = new Uint8Array(Uint32Array.of(first + 2, first, first + 1, first, LOW_RAM / PAGE).buffer);

let latest: BalloonDevice | undefined;

conformance({
  name: 'the balloon',
  create: () => ({ device: (latest = new BalloonDevice({ name: 'balloon0', memory: 2 ** 20 })) }),
  request: {
    queue: 0,
    buffers: () => [{ bytes: numbers.slice(0, 6) }, { bytes: numbers.slice(6) }],
    check: (reply, written) => {
      expect([reply.length, written]).toEqual([0, 0]);
      const { inflated, outsideRam, reclaimed } = latest!.counters;
      expect(inflated).toBeGreaterThanOrEqual(3);
      expect([inflated % 3, reclaimed / PAGE, outsideRam]).toEqual([0, inflated, inflated / 3]);
    },
  },
  changeConfig: (device) => {
    if (device instanceof BalloonDevice) device.resize(device.target + PAGE);
  },
});
