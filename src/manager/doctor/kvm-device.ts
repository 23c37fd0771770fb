import type { Stats } from 'node:fs';
import { open, stat } from 'node:fs/promises';

import { type Check, reasonOf } from './check.ts';
import { asRoot, containerKind, cpuFlags, type Host, hostPath, readText } from './host.ts';

const DEVICE = '/dev/kvm';
const MEMBER_READ_WRITE = 0o060;

/** Whether /dev/kvm is there and opens for this user, and what to do where not. */
export async function deviceChecks(host: Host): Promise<Check[]> {
  const purpose = 'running guests on the CPU itself';
  const present = { id: 'kvm-device', title: 'KVM device', purpose };
  const access = { id: 'kvm-access', title: 'access to KVM', purpose };
  let stats: Stats;
  try {
    stats = await stat(hostPath(host, DEVICE));
  } catch (error) {
    return [
      {
        ...present,
        status: 'missing',
        detail: code(error) === 'ENOENT' ? `${DEVICE} is not there` : reasonOf(error),
        fix: await missingDeviceFix(host),
      },
      { ...access, status: 'missing', detail: `not checked: ${DEVICE} is not there` },
    ];
  }
  const there: Check = { ...present, status: 'ok', detail: `${DEVICE} is there` };
  try {
    const file = await open(hostPath(host, DEVICE), 'r+');
    await file.close();
    return [there, { ...access, status: 'ok', detail: `${DEVICE} opens for ${host.user.name}` }];
  } catch (error) {
    return [there, { ...access, status: 'missing', ...(await refusal(host, error, stats)) }];
  }
}

/** Why the device does not open, and what to do about it. */
export async function refusal(
  host: Host,
  error: unknown,
  stats: { readonly gid: number; readonly mode: number },
): Promise<{ detail: string; fix: string }> {
  const { user } = host;
  const container = await containerKind(host);
  switch (code(error)) {
    case 'EBUSY':
      return {
        detail: `${DEVICE} is busy`,
        fix: 'another hypervisor (VirtualBox, VMware) holds the CPU virtualisation: stop its machines first',
      };
    case 'ENODEV':
    case 'ENXIO':
      return { detail: `no driver answers for ${DEVICE}`, fix: await missingDeviceFix(host) };
    case 'EACCES':
    case 'EPERM':
      break;
    default:
      return { detail: `${DEVICE} does not open: ${reasonOf(error)}`, fix: await missingDeviceFix(host) };
  }
  if (container !== undefined) {
    return {
      detail: `${user.name} may not open ${DEVICE} in this ${container} container`,
      fix: passDevice(true),
    };
  }
  const groups = parseGroups((await readText(host, '/etc/group')) ?? '');
  const owner = groups.find(({ gid }) => gid === stats.gid);
  const name = owner?.name ?? String(stats.gid);
  // Group 0 with write access is no group to put a user into.
  if ((stats.mode & MEMBER_READ_WRITE) !== MEMBER_READ_WRITE || stats.gid === 0) {
    return {
      detail: `${DEVICE} belongs to group ${name} and is not open to other users`,
      fix: `${asRoot(host, `chmod 0666 ${DEVICE}`)} (until the next boot)`,
    };
  }
  if (user.groups.includes(stats.gid)) {
    return {
      detail: `${user.name} is in group ${name}, which owns ${DEVICE}, but it is refused: ${reasonOf(error)}`,
      fix: 'look for a security module or a sandbox that refuses it: journalctl -k -g denied',
    };
  }
  if (owner?.members.includes(user.name) === true) {
    return {
      detail: `${user.name} is in group ${name}, which owns ${DEVICE}, but not yet in this login`,
      fix: `log out and in again, or: newgrp ${name}`,
    };
  }
  return {
    detail: `${DEVICE} belongs to group ${name}, and ${user.name} is not in it`,
    fix: `${asRoot(host, `usermod -aG ${name} ${user.name}`)}, then log out and in again`,
  };
}

async function missingDeviceFix(host: Host): Promise<string> {
  if ((await containerKind(host)) !== undefined) return passDevice(false);
  const flags = await cpuFlags(host);
  if (flags.has('vmx')) return asRoot(host, 'modprobe kvm_intel');
  if (flags.has('svm')) return asRoot(host, 'modprobe kvm_amd');
  return flags.has('hypervisor')
    ? 'give this virtual machine nested virtualisation (the CPU model of its host, vmx or svm) on its host'
    : 'enable virtualisation (VT-x, AMD-V, SVM) in the firmware setup';
}

function passDevice(groups: boolean): string {
  return groups
    ? 'start the container with: --device /dev/kvm --group-add keep-groups (docker: --group-add "$(stat -c %g /dev/kvm)")'
    : 'start the container with: --device /dev/kvm';
}

type Group = { readonly name: string; readonly gid: number; readonly members: readonly string[] };

function parseGroups(text: string): Group[] {
  return text.split('\n').flatMap((line) => {
    const [name, , gid, members = ''] = line.split(':');
    return name === undefined || gid === undefined || !/^\d+$/.test(gid)
      ? []
      : [{ name, gid: Number(gid), members: members.split(',') }];
  });
}

function code(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}
