import { expect } from 'vitest';
import { BlockDevice } from '../../../../src/devices/block/device.ts';
import { conformance, type ConformanceOptions } from '../../../support/virtio/conformance.ts';
import { blockFixture, content, read } from '../../../support/virtio/block.ts';

const request: ConformanceOptions['request'] = {
  queue: 0,
  buffers: () => read(3, 1024),
  check: (reply, written) => {
    expect(written).toBe(1025);
    expect(reply[1024]).toBe(0);
    expect(Buffer.compare(reply.subarray(0, 1024), content(3, 1024))).toBe(0);
  },
};

const changeConfig: ConformanceOptions['changeConfig'] = (device) => {
  if (device instanceof BlockDevice) device.resized();
};

conformance({
  name: 'a block device on io_uring',
  create: () => blockFixture({ engine: 'io_uring' }),
  request,
  changeConfig,
});

conformance({
  name: 'a block device of two queues on threads, past the page cache',
  create: () => blockFixture({ engine: 'threads', cache: 'none', queues: 2, queueSize: 64 }),
  request: { ...request, queue: 1 },
  changeConfig,
  // the other one goes round
  wrapRequests: 640,
});

conformance({
  name: 'a block device that polls on',
  create: () => blockFixture({ polls: true, poll: { limit: 100 } }),
  request,
  changeConfig,
  wrapRequests: 640,
});
