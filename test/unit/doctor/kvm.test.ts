import { describe, expect, it } from 'vitest';

import { guestProbeCheck, probeCheck } from '../../../src/manager/doctor/guest-probe.ts';
import { factChecks, kvmApiChecks } from '../../../src/manager/doctor/kvm-api.ts';
import { fakeHost } from './fake-host.ts';

const IRQCHIP = { name: 'KVM_CAP_IRQCHIP', purpose: 'interrupt controllers', value: 1 };

describe('what KVM says', () => {
  it('is a check for the version and one for each capability', () => {
    const checks = factChecks({
      apiVersion: 12,
      capabilities: [IRQCHIP, { ...IRQCHIP, name: 'KVM_CAP_PIT2', value: 0 }],
    });
    expect(checks.map(({ id, status }) => [id, status])).toEqual([
      ['kvm-api', 'ok'],
      ['kvm-cap-irqchip', 'ok'],
      ['kvm-cap-pit2', 'missing'],
    ]);
    expect(checks[2]).toMatchObject({ title: 'KVM_CAP_PIT2', purpose: 'interrupt controllers' });
    expect(checks[2]?.fix).toContain('Linux');
  });

  it('is not usable with another API version', () => {
    expect(factChecks({ apiVersion: 11, capabilities: [] })[0]).toMatchObject({
      status: 'missing',
      detail: 'version 11, not 12',
    });
  });

  it('is missing where the device is not KVM', async () => {
    const checks = await kvmApiChecks(fakeHost({ '/dev/kvm': 'a plain file' }));
    expect(checks).toHaveLength(1);
    expect(checks[0]).toMatchObject({ id: 'kvm-api', status: 'missing' });
    expect(checks[0]?.detail).not.toBe('');
  });
});

describe('the guest probe', () => {
  const speed = {
    name: 'speed',
    ok: false,
    detail: 'ring 0 runs 1.1 million instructions a second',
  };
  const int3 = { name: 'breakpoint', ok: false, detail: 'int3 in ring 0 raises exception 6' };
  const msr = { name: 'msr', ok: true, detail: 'MSRs work' };

  it('says plainly what fails', () => {
    expect(probeCheck({ usable: false, checks: [speed, msr, int3], milliseconds: 3 })).toMatchObject({
      id: 'guest-kernels',
      status: 'missing',
      detail:
        'KVM here cannot run guest kernels: ring 0 runs 1.1 million instructions a second (a software KVM), ' +
        'int3 in ring 0 raises exception 6',
    });
  });

  it('is ok where guests run', () => {
    expect(probeCheck({ usable: true, checks: [msr], milliseconds: 4.2 })).toMatchObject({
      status: 'ok',
      detail: 'run here (probed in 5 ms)',
    });
  });

  it('that never ends does not hang the doctor', async () => {
    expect(await guestProbeCheck(() => new Promise(() => undefined), 20)).toMatchObject({
      status: 'missing',
      detail: 'the probe guest did not come to an end within 0.02 s',
    });
  });

  it('that cannot run says why', async () => {
    const check = await guestProbeCheck(() => Promise.reject(new Error('KVM on this host lacks X')));
    expect(check).toMatchObject({
      status: 'missing',
      detail: 'the probe did not run: KVM on this host lacks X',
    });
  });
});
