import { describe, expect, it } from 'vitest';

import { deviceChecks, refusal } from '../../../src/manager/doctor/kvm-device.ts';
import { ALICE, fakeHost, ROOT } from './fake-host.ts';

const DENIED = Object.assign(new Error("EACCES: permission denied, open '/dev/kvm'"), { code: 'EACCES' });
const KVM_GROUP = { gid: 107, mode: 0o20660 };
const GROUPS = { '/etc/group': 'root:x:0:\nkvm:x:107:bob,carol\nalice:x:1000:\n' };

async function missingFix(files: Record<string, string>, user = ALICE): Promise<string | undefined> {
  const [present, access] = await deviceChecks(fakeHost(files, user));
  expect(present).toMatchObject({ id: 'kvm-device', status: 'missing', detail: '/dev/kvm is not there' });
  expect(access).toMatchObject({ id: 'kvm-access', status: 'missing' });
  return present?.fix;
}

describe('a missing /dev/kvm', () => {
  it('is the module not loaded, where the CPU can', async () => {
    expect(await missingFix({ '/proc/cpuinfo': 'flags\t\t: fpu vmx sse\n' })).toBe('sudo modprobe kvm_intel');
    expect(await missingFix({ '/proc/cpuinfo': 'flags\t\t: fpu svm sse\n' }, ROOT)).toBe('modprobe kvm_amd');
  });

  it('is the firmware, where a physical CPU does not show the feature', async () => {
    expect(await missingFix({ '/proc/cpuinfo': 'flags\t\t: fpu sse\n' })).toContain('firmware');
  });

  it('is the outer host, in a virtual machine', async () => {
    expect(await missingFix({ '/proc/cpuinfo': 'flags\t\t: fpu hypervisor\n' })).toContain('nested');
  });

  it('is not passed in, in a container', async () => {
    const cpu = { '/proc/cpuinfo': 'flags\t\t: fpu vmx\n' };
    const fix = 'start the container with: --device /dev/kvm';
    expect(await missingFix({ ...cpu, '/.dockerenv': '' })).toBe(fix);
    expect(await missingFix({ ...cpu, '/run/.containerenv': 'engine="podman"' })).toBe(fix);
    expect(await missingFix({ ...cpu, '/run/systemd/container': 'systemd-nspawn\n' })).toBe(fix);
    expect(await missingFix({ ...cpu, '/proc/1/cgroup': '0::/kubepods/besteffort/pod1\n' })).toBe(fix);
  });
});

describe('a /dev/kvm that opens', () => {
  it('is ok', async () => {
    const checks = await deviceChecks(fakeHost({ '/dev/kvm': '' }));
    expect(checks.map(({ status }) => status)).toEqual(['ok', 'ok']);
  });
});

describe('a /dev/kvm that does not open', () => {
  it('asks to join the group that owns it', async () => {
    expect(await refusal(fakeHost(GROUPS), DENIED, KVM_GROUP)).toEqual({
      detail: '/dev/kvm belongs to group kvm, and alice is not in it',
      fix: 'sudo usermod -aG kvm alice, then log out and in again',
    });
  });

  it('asks for a new login, where the user has joined after this one', async () => {
    const bob = { name: 'bob', uid: 1001, groups: [1001] };
    expect(await refusal(fakeHost(GROUPS, bob), DENIED, KVM_GROUP)).toEqual({
      detail: 'bob is in group kvm, which owns /dev/kvm, but not yet in this login',
      fix: 'log out and in again, or: newgrp kvm',
    });
  });

  it('does not take a name that is part of a member for a member', async () => {
    const bo = { name: 'bo', uid: 1002, groups: [1002] };
    expect((await refusal(fakeHost(GROUPS, bo), DENIED, KVM_GROUP)).fix).toContain('usermod -aG kvm bo,');
  });

  it('names the group by number where it has no name', async () => {
    const { fix } = await refusal(fakeHost(), DENIED, { gid: 36, mode: 0o20660 });
    expect(fix).toContain('usermod -aG 36 alice');
  });

  it('asks for chmod where no group would help', async () => {
    const fix = 'sudo chmod 0666 /dev/kvm (until the next boot)';
    expect((await refusal(fakeHost(GROUPS), DENIED, { gid: 0, mode: 0o20660 })).fix).toBe(fix);
    expect((await refusal(fakeHost(GROUPS), DENIED, { gid: 107, mode: 0o20600 })).fix).toBe(fix);
  });

  it('looks for a security module where the group is right', async () => {
    const bob = { name: 'bob', uid: 1001, groups: [1001, 107] };
    expect((await refusal(fakeHost(GROUPS, bob), DENIED, KVM_GROUP)).fix).toContain('security module');
  });

  it('is a matter of the container in one', async () => {
    const host = fakeHost({ ...GROUPS, '/run/.containerenv': '' });
    const { detail, fix } = await refusal(host, DENIED, KVM_GROUP);
    expect(detail).toContain('podman container');
    expect(fix).toContain('--device /dev/kvm --group-add keep-groups');
  });

  it('is busy where another hypervisor runs', async () => {
    const busy = Object.assign(new Error('busy'), { code: 'EBUSY' });
    expect((await refusal(fakeHost(), busy, KVM_GROUP)).fix).toContain('VirtualBox');
  });

  it('has no driver where the module is not loaded', async () => {
    const gone = Object.assign(new Error('no such device'), { code: 'ENODEV' });
    const host = fakeHost({ '/proc/cpuinfo': 'flags\t\t: svm\n' });
    expect((await refusal(host, gone, KVM_GROUP)).fix).toBe('sudo modprobe kvm_amd');
  });

  it('is told with its reason otherwise', async () => {
    const checks = await deviceChecks(fakeHost({ '/dev/kvm/a-folder': '' }));
    expect(checks[1]).toMatchObject({ id: 'kvm-access', status: 'missing' });
    expect(checks[1]?.detail).toContain('EISDIR');
  });
});
