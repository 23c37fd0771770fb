import * as v from 'valibot';
import { checkState, DeviceStateError, unsigned } from '../../kvm/device-state.ts';

const word = unsigned(0xffff_ffff);

const schema = v.strictObject({
  /** pages that the balloon is to hold */
  target: word,
  /** pages that it holds, as the driver has said */
  actual: word,
  /** what the driver fills free pages with */
  poison: word,
});

export type BalloonState = v.InferOutput<typeof schema>;

/** @param limit pages of RAM. @throws DeviceStateError */
export function checkBalloonState(name: string, data: unknown, limit: number): BalloonState {
  const state = checkState(name, schema, data);
  if (state.target > limit)
    throw new DeviceStateError(`state of ${name}, target: more than the RAM there is`);
  return state;
}
