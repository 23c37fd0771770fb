import * as v from 'valibot';
import { checkState } from '../../kvm/device-state.ts';

/** Nothing: random numbers have no history, and must not have one that a clone of the machine shares. */
const schema = v.strictObject({});

/** @throws DeviceStateError */
export function checkEntropyState(name: string, data: unknown): void {
  checkState(name, schema, data);
}
