import { expect } from 'vitest';
import { NetDevice } from '../../../../src/devices/net/device.ts';
import { conformance, type ConformanceOptions } from '../../../support/virtio/conformance.ts';
import { frame, netFixture, netHeader } from '../../../support/virtio/net.ts';

/** A command that any driver may give: promiscuous on. */
const command: ConformanceOptions['request'] = {
  queue: 2,
  buffers: () => [{ bytes: Uint8Array.of(0, 0, 1) }, { room: 1 }],
  check: (reply, written) => {
    expect(written).toBe(1);
    expect(reply[0]).toBe(0);
  },
};

const changeConfig: ConformanceOptions['changeConfig'] = (device) => {
  if (device instanceof NetDevice) device.setLink(!device.link);
};

conformance({
  name: 'the control queue of a network device',
  create: () => netFixture(),
  request: command,
  changeConfig,
});

conformance({
  name: 'the transmit queue of a network device',
  create: () => {
    const fixture = netFixture();
    // Somebody reads along, or the socket would be full one day.
    fixture.peer.port.user = { readable: () => void fixture.peer.receive(), writable: () => undefined };
    fixture.peer.port.listen(true);
    return fixture;
  },
  request: {
    queue: 1,
    buffers: () => [{ bytes: netHeader() }, { bytes: frame(60) }, { room: 1 }],
    check: (_, written) => expect(written).toBe(0),
  },
  wrapRequests: 640,
});

conformance({
  name: 'a network device of two pairs of queues that polls on',
  create: () => netFixture({ pairs: 2, vnetHeader: true, mtu: 1400, queueSize: 64, poll: { limit: 100 } }),
  request: { ...command, queue: 4 },
  changeConfig,
  wrapRequests: 640,
});
