import * as v from 'valibot';

import { checkState, DeviceStateError, unsigned } from '../../kvm/device-state.ts';
import { EVENT, MESSAGES_PER_PORT } from './control.ts';

/** As many as QEMU has: two queues each, and all of them in the notification registers of a PCI BAR. */
export const PORT_LIMIT = 31;

const port = v.strictObject({
  /** not unplugged */
  present: v.boolean(),
  /** the driver has set it up */
  ready: v.boolean(),
  guestOpen: v.boolean(),
  /** what the guest has been told, or will be by a message that waits */
  hostOpen: v.boolean(),
  /** what waits in the transmit queue was for somebody who has gone */
  dropping: v.boolean(),
  /** the request in flight, and how many of its bytes the host has taken */
  partial: v.optional(v.strictObject({ head: unsigned(0xffff), offset: unsigned(2 ** 32) })),
});

const message = v.strictObject({
  port: unsigned(PORT_LIMIT - 1),
  event: v.picklist([
    EVENT.portAdd,
    EVENT.portRemove,
    EVENT.consolePort,
    EVENT.resize,
    EVENT.portOpen,
    EVENT.portName,
  ]),
  value: unsigned(1),
});

const schema = v.strictObject({
  /** the size that the guest knows of */
  columns: unsigned(0xffff),
  rows: unsigned(0xffff),
  deviceReady: v.boolean(),
  /** port 0 among them where no console is there */
  ports: v.pipe(v.array(port), v.maxLength(PORT_LIMIT)),
  outbox: v.pipe(v.array(message), v.maxLength(PORT_LIMIT * MESSAGES_PER_PORT)),
});

/** Input and output that the host's side holds are on the wire, and no part of it. */
export type ConsoleState = v.InferOutput<typeof schema>;
export type PortState = ConsoleState['ports'][number];

/** @throws DeviceStateError where `data` is no state of a console with so many ports */
export function checkConsoleState(name: string, data: unknown, ports: number): ConsoleState {
  const state = checkState(name, schema, data);
  if (state.ports.length !== ports) {
    throw new DeviceStateError(`state of ${name}: ${state.ports.length} ports, and the device has ${ports}`);
  }
  if (state.outbox.some((each) => each.port >= ports)) {
    throw new DeviceStateError(`state of ${name}: a message about a port that is not there`);
  }
  return state;
}
