import type { ProbeResult } from '../../vmm/probe.ts';
import { type Check, reasonOf } from './check.ts';

export const GUEST_KERNELS = {
  id: 'guest-kernels',
  title: 'guest kernels',
  purpose: 'a KVM may answer every question and still not run a kernel',
};

/** Runs a tiny guest that does what kernels do. */
export async function guestProbeCheck(): Promise<Check> {
  try {
    const { probeGuests } = await import('../../vmm/probe.ts');
    return probeCheck(await probeGuests());
  } catch (error) {
    return { ...GUEST_KERNELS, status: 'missing', detail: `the probe did not run: ${reasonOf(error)}` };
  }
}

/** What the probe's result means. */
export function probeCheck(result: ProbeResult): Check {
  if (result.usable) {
    return {
      ...GUEST_KERNELS,
      status: 'ok',
      detail: `run here (probed in ${Math.ceil(result.milliseconds)} ms)`,
    };
  }
  const failures = result.checks
    .filter(({ ok }) => !ok)
    .map(({ name, detail }) => (name === 'speed' ? `${detail} (a software KVM)` : detail));
  return {
    ...GUEST_KERNELS,
    status: 'missing',
    detail: `KVM here cannot run guest kernels: ${failures.join(', ')}`,
    fix: 'use a machine whose KVM has hardware virtualisation (vmx, svm); in a virtual machine, nested virtualisation has to be enabled on its host',
  };
}
