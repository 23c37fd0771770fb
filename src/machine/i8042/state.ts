import * as v from 'valibot';

import { byte, checkState, unsigned } from '../../kvm/device-state.ts';

/** Bytes of key codes that the keyboard holds; drivers flush no more than this at once. */
export const KEYBOARD_BUFFER = 16;

export const RAM_SIZE = 32;

const keyboard = v.strictObject({
  scanning: v.boolean(),
  set: v.picklist([1, 2]),
  leds: unsigned(7),
  rate: unsigned(0x7f),
  /** the command whose parameter comes next */
  awaiting: v.nullable(v.picklist([0xed, 0xf0, 0xf3])),
  replies: v.pipe(v.array(byte), v.maxLength(3)),
  /** key codes of set 2 */
  codes: v.pipe(v.array(byte), v.maxLength(KEYBOARD_BUFFER)),
  /** what was sent last, for a resend */
  last: byte,
});

export type KeyboardState = v.InferOutput<typeof keyboard>;

const schema = v.strictObject({
  keyboard,
  /** byte 0 is the command byte */
  ram: v.pipe(v.array(byte), v.length(RAM_SIZE)),
  outputPort: byte,
  /** the controller command whose parameter comes next */
  awaiting: v.nullable(byte),
  /** what data port reads give */
  output: byte,
  /** who has filled the output buffer; null where the guest has read it */
  outputFrom: v.nullable(v.picklist(['controller', 'keyboard'])),
  /** an answer that waits for the output buffer */
  response: v.nullable(byte),
  /** the keyboard has sent the first byte of a break code, the translation waits for the second */
  breakSeen: v.boolean(),
  commandLast: v.boolean(),
});

export type I8042State = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkI8042State(data: unknown): I8042State {
  return checkState('i8042', schema, data);
}
