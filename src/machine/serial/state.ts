import * as v from 'valibot';

import { byte, checkState, unsigned } from '../../kvm/device-state.ts';
import { FCR, FIFO_SIZE, IER_MASK, MCR_MASK } from './registers.ts';

const schema = v.strictObject({
  ier: unsigned(IER_MASK),
  lcr: byte,
  mcr: unsigned(MCR_MASK),
  scr: byte,
  divisor: unsigned(0xffff),
  /** FIFO enable and trigger level, in their places in FCR */
  fcr: v.pipe(
    byte,
    v.check((fcr) => (fcr & ~(FCR.enable | FCR.trigger)) === 0, 'reserved bits set'),
  ),
  /** received, not yet read by the guest; one byte where the FIFOs are off */
  received: v.pipe(v.array(byte), v.maxLength(FIFO_SIZE)),
  overrun: v.picklist(['none', 'pending', 'identified']),
  /** what has changed of the modem lines, bits 3-0 of MSR */
  modemDelta: unsigned(0x0f),
  /** the transmitter has become empty and the guest has not been told */
  threPending: v.boolean(),
  rtsSeen: v.boolean(),
});

/**
 * What the guest sees of a UART. Input that the host has queued but the FIFO has not taken is still on the wire,
 * and no part of it.
 */
export type SerialState = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkSerialState(name: string, data: unknown): SerialState {
  const state = checkState(name, schema, data);
  const depth = (state.fcr & FCR.enable) === 0 ? 1 : FIFO_SIZE;
  return checkState(
    name,
    v.object({ ...schema.entries, received: v.pipe(v.array(byte), v.maxLength(depth)) }),
    state,
  );
}
