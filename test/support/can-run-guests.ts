import { probeGuests } from '../../src/vmm/probe.ts';

/** Whether the KVM of this machine runs guest kernels, by the probe that `tsvm doctor` uses. */
export async function canRunGuests(): Promise<boolean> {
  try {
    return (await probeGuests()).usable;
  } catch {
    // no KVM at all
    return false;
  }
}
