import * as v from 'valibot';

import { checkState, unsigned } from '../../kvm/device-state.ts';

const schema = v.strictObject({
  /** the configuration address register */
  address: unsigned(0xffff_ffff),
});

export type PciConfigPortsState = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkPciConfigPortsState(data: unknown): PciConfigPortsState {
  return checkState('pci-config-ports', schema, data);
}
