import * as v from 'valibot';

import { byte, checkState, unsigned } from '../../kvm/device-state.ts';

const schema = v.strictObject({
  pm1: v.strictObject({
    status: unsigned(0xffff),
    enable: unsigned(0xffff),
    control: unsigned(0xffff),
    /** of the PM timer, as it stood */
    counter: unsigned(0xffff_ffff),
  }),
  gpe: v.strictObject({ status: byte, enable: byte }),
  resetControl: byte,
  systemControlA: byte,
});

export type PowerState = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkPowerState(data: unknown): PowerState {
  return checkState('power', schema, data);
}
