import * as v from 'valibot';
import { checkState } from '../../kvm/device-state.ts';

const schema = v.strictObject({
  /** the cache mode that the driver has chosen: 1 writeback, 0 writethrough */
  writeback: v.picklist([0, 1]),
});

export type BlockState = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkBlockState(device: string, data: unknown): BlockState {
  return checkState(device, schema, data);
}
