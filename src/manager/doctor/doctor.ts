import type { Check } from './check.ts';
import { GUEST_KERNELS, guestProbeCheck } from './guest-probe.ts';
import { type Host, thisHost } from './host.ts';
import { ioUringCheck } from './io-uring.ts';
import { KVM_API, kvmApiChecks } from './kvm-api.ts';
import { deviceChecks } from './kvm-device.ts';
import { memoryChecks } from './memory.ts';
import { nestingCheck } from './nesting.ts';
import { toolChecks } from './tools.ts';

export type { Check, CheckStatus } from './check.ts';

export type DoctorReport = {
  /** whether tsvm can run guests on this machine: no check is `missing` */
  readonly usable: boolean;
  readonly checks: readonly Check[];
};

const UNCHECKED = { status: 'missing', detail: 'not checked: KVM does not open' } as const;

/** Looks at all that tsvm needs of a machine. Never rejects: what cannot be found out is a check that says so. */
export async function runDoctor(host: Host = thisHost()): Promise<DoctorReport> {
  const [device, nesting, memory, ioUring, tools] = await Promise.all([
    deviceChecks(host),
    nestingCheck(host),
    memoryChecks(host),
    ioUringCheck(host),
    toolChecks(host),
  ]);
  const guests = device.every(({ status }) => status === 'ok')
    ? [...(await kvmApiChecks(host)), await guestProbeCheck()]
    : [KVM_API, GUEST_KERNELS].map((check): Check => ({ ...check, ...UNCHECKED }));
  const checks = [...device, ...guests, nesting, ...memory, ioUring, ...tools];
  return { usable: checks.every(({ status }) => status !== 'missing'), checks };
}
