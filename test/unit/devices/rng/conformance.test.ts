import { expect } from 'vitest';
import { EntropyDevice } from '../../../../src/devices/rng/device.ts';
import { conformance } from '../../../support/virtio/conformance.ts';

/** What the driver puts into a buffer beforehand; the same by chance once in 2^128 times. */
const untouched = 0xee;

conformance({
  name: 'the entropy device',
  create: () => ({ device: new EntropyDevice({ name: 'rng0' }) }),
  request: {
    queue: 0,
    buffers: () => [{ room: 16 }, { room: 24 }],
    check: (reply, written) => {
      expect(written).toBe(40);
      for (const part of [reply.subarray(0, 16), reply.subarray(24)])
        expect(part.every((byte) => byte === untouched)).toBe(false);
    },
  },
});
