import { expect } from 'vitest';
import { conformance, type ConformanceOptions } from '../../support/virtio/conformance.ts';
import { EchoDevice, FieldsDevice } from '../../support/virtio/devices.ts';

const bytes = Uint8Array.of(3, 1, 4, 1, 5, 9, 2, 6, 5, 3);
const echo: ConformanceOptions['request'] = {
  queue: 1,
  buffers: () => [{ bytes: bytes.slice(0, 7) }, { bytes: bytes.slice(7) }, { room: 4 }, { room: 9 }],
  check: (reply, written) => {
    expect(written).toBe(10);
    expect([...reply]).toEqual([...bytes, 0xee, 0xee, 0xee]);
  },
};

conformance({
  name: 'an echo that answers at once',
  create: () => ({ device: new EchoDevice() }),
  request: echo,
});

conformance({
  name: 'an echo with configuration fields that answers later',
  create: () => ({ device: new FieldsDevice({ delay: 1 }) }),
  request: echo,
  changeConfig: (device) => {
    if (device instanceof FieldsDevice) device.config.set({ capacity: 0xff00_0000_0001 });
  },
  // a batch takes a millisecond; the other echo goes round
  wrapRequests: 160,
});
