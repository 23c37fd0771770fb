import * as v from 'valibot';
import { checkState } from '../../kvm/device-state.ts';

/** Nothing: connections end in programs of the host that a restored machine knows nothing of. */
const schema = v.strictObject({});

/** @throws DeviceStateError */
export function checkVsockState(name: string, data: unknown): void {
  checkState(name, schema, data);
}
