import { expect } from 'vitest';
import { ConsoleDevice } from '../../../../src/devices/console/device.ts';
import { conformance } from '../../../support/virtio/conformance.ts';
import { Host } from './support.ts';

const bytes = new TextEncoder().encode('a line of output\r\n');
let host = new Host();

const output = {
  queue: 1,
  buffers: () => [{ bytes: bytes.slice(0, 5) }, { bytes: bytes.slice(5) }],
  check: (reply: Uint8Array, written: number) => {
    expect(written).toBe(0);
    expect(reply).toHaveLength(0);
    expect([...host.pieces.at(-1)!]).toEqual([...bytes]);
  },
};

const resize = (device: unknown): void => {
  if (device instanceof ConsoleDevice) device.resize(132, 43);
};

conformance({
  name: 'a plain console',
  create: () => {
    host = new Host();
    return { device: new ConsoleDevice({ name: 'console0', ports: [{ console: true, backend: host }] }) };
  },
  request: output,
  changeConfig: resize,
});

conformance({
  name: 'a console with two named ports, its control queue',
  create: () => {
    host = new Host();
    const ports = [
      { name: 'org.example.a', backend: new Host() },
      { name: 'org.example.b', backend: new Host() },
      { console: true, backend: host },
    ];
    return { device: new ConsoleDevice({ name: 'console0', ports, size: { columns: 80, rows: 24 } }) };
  },
  // PORT_OPEN of port 2
  request: {
    queue: 3,
    buffers: () => [{ bytes: Uint8Array.of(2, 0, 0, 0, 6) }, { bytes: Uint8Array.of(0, 1, 0) }],
    check: (reply, written) => {
      expect(written).toBe(0);
      expect(reply).toHaveLength(0);
    },
  },
  changeConfig: resize,
  // the plain console goes round
  wrapRequests: 160,
});
