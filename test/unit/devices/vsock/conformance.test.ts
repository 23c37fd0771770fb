import { expect } from 'vitest';
import { VsockDevice } from '../../../../src/devices/vsock/device.ts';
import { conformance } from '../../../support/virtio/conformance.ts';
import { encode, HOST, OP, STREAM } from '../../../support/virtio/vsock.ts';
import { CID, FakeHost } from './support.ts';

conformance({
  name: 'a socket device',
  create: () => ({ device: new VsockDevice({ name: 'vsock0', cid: CID, backend: new FakeHost() }) }),
  // A RST of nothing needs no answer.
  request: {
    queue: 1,
    buffers: () => [
      {
        bytes: encode({
          ...{ sourceCid: CID, targetCid: HOST, sourcePort: 1, targetPort: 2, type: STREAM, op: OP.reset },
          ...{ length: 0, flags: 0, bufferSize: 0, forwarded: 0 },
        }),
      },
    ],
    check: (reply, written) => {
      expect(written).toBe(0);
      expect(reply).toHaveLength(0);
    },
  },
});
