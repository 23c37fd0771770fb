import { expect } from 'vitest';
import { conformance } from '../../../support/virtio/conformance.ts';
import { fsFixture, pack } from '../../../support/virtio/fuse.ts';

const INIT = 26;

conformance({
  name: 'the file system device',
  create: () => fsFixture(),
  request: {
    queue: 1,
    buffers: () => [
      { bytes: pack(104, INIT, 7n, 0n, 0, 0, 0, 0) },
      { bytes: pack(7, 38, 131_072, 0, 0, new Uint8Array(44)) },
      { room: 16 },
      { room: 64 },
    ],
    check: (reply, written) => {
      expect(written).toBe(80);
      expect(Buffer.from(reply).subarray(0, 24)).toEqual(pack(80, 0, 7n, 7, 38));
    },
  },
});
