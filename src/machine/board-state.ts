import * as v from 'valibot';
import { checkState } from '../kvm/device-state.ts';
import { checkVcpuState, type EncodedVcpuState, type VcpuState } from '../kvm/vcpu-state.ts';
import { checkVmState, type EncodedVmState, type VmState } from '../kvm/vm-state.ts';
import { MAX_VCPUS } from '../boot/layout.ts';

/** What of each device there is, the devices look at themselves. */
const devices = {
  serial: v.unknown(),
  rtc: v.unknown(),
  keyboard: v.unknown(),
  power: v.unknown(),
  generation: v.unknown(),
  pciConfig: v.unknown(),
  virtio: v.unknown(),
};
const schema = v.strictObject({
  vcpus: v.pipe(v.array(v.unknown()), v.minLength(1), v.maxLength(MAX_VCPUS)),
  vm: v.unknown(),
  ...devices,
});

type Devices = { readonly [Name in keyof typeof devices]: unknown };

/** A board without its RAM; processors and interrupt controllers are checked, devices are not yet. */
export type BoardState = Devices & { readonly vcpus: readonly VcpuState[]; readonly vm: VmState };
/** As it is in a file. */
export type EncodedBoardState = Devices & {
  readonly vcpus: readonly EncodedVcpuState[];
  readonly vm: EncodedVmState;
};

/** @throws DeviceStateError */
export function checkBoardState(data: unknown): BoardState {
  const state = checkState('the board', schema, data);
  return {
    ...state,
    vcpus: state.vcpus.map((vcpu, index) => checkVcpuState(index, vcpu)),
    vm: checkVmState(state.vm),
  };
}
