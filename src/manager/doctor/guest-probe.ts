import { setTimeout as delay } from 'node:timers/promises';

import type { ProbeResult } from '../../vmm/probe.ts';
import { type Check, reasonOf } from './check.ts';

export const GUEST_KERNELS = {
  id: 'guest-kernels',
  title: 'guest kernels',
  purpose: 'a KVM may answer every question and still not run a kernel',
};

/** Several times what the probe takes at its slowest, in milliseconds. A broken KVM must not hang the doctor. */
const PROBE_LIMIT = 20_000;

async function probeGuests(): Promise<ProbeResult> {
  const probe = await import('../../vmm/probe.ts');
  return probe.probeGuests();
}

/** Runs a tiny guest that does what kernels do. */
export async function guestProbeCheck(probe = probeGuests, limit = PROBE_LIMIT): Promise<Check> {
  const waiting = new AbortController();
  try {
    const result = await Promise.race([probe(), delay(limit, undefined, { signal: waiting.signal })]);
    if (result !== undefined) return probeCheck(result);
    return {
      ...GUEST_KERNELS,
      status: 'missing',
      detail: `the probe guest did not come to an end within ${limit / 1000} s`,
    };
  } catch (error) {
    return { ...GUEST_KERNELS, status: 'missing', detail: `the probe did not run: ${reasonOf(error)}` };
  } finally {
    waiting.abort();
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
