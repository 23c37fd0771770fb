import { describe, expect, it } from 'vitest';

import { formatReport } from '../../../src/cli/doctor-report.ts';
import type { Check } from '../../../src/manager/doctor/check.ts';
import { runDoctor } from '../../../src/manager/doctor/doctor.ts';
import { fakeHost } from './fake-host.ts';

function check(id: string, status: Check['status'], extra: Partial<Check> = {}): Check {
  return { id, title: id, status, detail: `${id} is ${status}`, purpose: 'its purpose', ...extra };
}

const PLAIN = { table: false, colours: false };

describe('runDoctor', () => {
  it('has the same checks on a machine where nothing is', async () => {
    const { usable, checks } = await runDoctor(fakeHost());
    expect(usable).toBe(false);
    expect(checks.map(({ id }) => id)).toEqual([
      'kvm-device',
      'kvm-access',
      'kvm-api',
      'guest-kernels',
      'nesting',
      'transparent-huge-pages',
      'huge-page-pool',
      'memory',
      'io-uring',
      'passt',
      'qemu-img',
      'mmdebstrap',
    ]);
  });

  it('gives every check the same shape, and none a fix that needs none', async () => {
    const { checks } = await runDoctor(fakeHost());
    for (const { id, title, status, detail, purpose, fix, ...rest } of checks) {
      expect([id, title, detail, purpose].every((text) => text !== '' && !text.includes('\n'))).toBe(true);
      expect(['ok', 'warning', 'missing']).toContain(status);
      if (status === 'ok') expect(fix).toBeUndefined();
      expect(rest).toEqual({});
    }
  });

  it('looks at this machine', async () => {
    const { usable, checks } = await runDoctor();
    expect(usable).toBe(checks.every(({ status }) => status !== 'missing'));
    expect(checks.find(({ id }) => id === 'memory')?.detail).toMatch(/^\d+ MiB available/);
  });
});

describe('formatReport', () => {
  it('is one line a check for a log, with the way out after it', () => {
    const checks = [check('a', 'ok'), check('b', 'warning', { fix: 'do this' }), check('c', 'missing')];
    expect(formatReport({ usable: false, checks }, PLAIN)).toBe(
      'ok: a: a is ok\n' +
        'warning: b: b is warning (for: its purpose)\n' +
        'fix: b: do this\n' +
        'missing: c: c is missing (for: its purpose)\n' +
        'This machine cannot run guests: see what is missing above.\n',
    );
  });

  it('is a table on a terminal', () => {
    const checks = [check('a', 'ok'), check('long title', 'warning', { fix: 'do this' })];
    expect(formatReport({ usable: true, checks }, { table: true, colours: false })).toBe(
      'ok       a           a is ok\n' +
        'warning  long title  long title is warning\n' +
        '                     for: its purpose\n' +
        '                     fix: do this\n' +
        '\n' +
        'This machine can run guests.\n',
    );
  });

  it('has colours only where asked for', () => {
    const report = { usable: true, checks: [check('a', 'ok')] };
    expect(formatReport(report, { table: true, colours: true })).toContain('\x1b[32mok     \x1b[39m  a');
    expect(formatReport(report, { table: true, colours: false })).not.toContain('\x1b');
  });

  it('joins capabilities that are all there', () => {
    const checks = [
      check('kvm-api', 'ok'),
      check('kvm-cap-a', 'ok'),
      check('kvm-cap-b', 'ok'),
      check('z', 'ok'),
    ];
    expect(formatReport({ usable: true, checks }, PLAIN)).toBe(
      'ok: kvm-api: kvm-api is ok\n' +
        'ok: KVM capabilities: all 2 there\n' +
        'ok: z: z is ok\n' +
        'This machine can run guests.\n',
    );
  });

  it('shows each capability where one is missing', () => {
    const checks = [check('kvm-cap-a', 'ok'), check('kvm-cap-b', 'missing')];
    const text = formatReport({ usable: false, checks }, PLAIN);
    expect(text).toContain('ok: kvm-cap-a');
    expect(text).toContain('missing: kvm-cap-b');
  });
});
