import type { Check } from './check.ts';
import { asRoot, containerKind, type Host, readNumber, readText } from './host.ts';

const SYSCTL = '/proc/sys/kernel/io_uring_disabled';

/** Whether the kernel lets this user have io_uring (sysctl kernel.io_uring_disabled, Linux 6.6). */
export async function ioUringCheck(host: Host): Promise<Check> {
  const check = {
    id: 'io-uring',
    title: 'io_uring',
    purpose: 'fast disks; without it a pool of threads does the work',
  };
  const allow = asRoot(host, 'sysctl kernel.io_uring_disabled=0');
  const [disabled, group, status, container] = await Promise.all([
    readNumber(host, SYSCTL),
    readNumber(host, '/proc/sys/kernel/io_uring_group'),
    readText(host, '/proc/self/status'),
    containerKind(host),
  ]);
  if (disabled === 2) {
    return { ...check, status: 'warning', detail: 'switched off for everybody', fix: allow };
  }
  const member = group !== undefined && group >= 0 && host.user.groups.includes(group);
  if (disabled === 1 && host.user.uid !== 0 && !member) {
    return { ...check, status: 'warning', detail: `switched off for ${host.user.name}`, fix: allow };
  }
  // Docker's and podman's filters refuse io_uring; mode 2 is SECCOMP_MODE_FILTER (proc(5)).
  if (container !== undefined && /^Seccomp:\s*2$/m.test(status ?? '')) {
    return {
      ...check,
      status: 'warning',
      detail: `the seccomp filter of this ${container} container may refuse it`,
      fix: 'start the container with a seccomp profile that allows io_uring_setup, io_uring_enter, io_uring_register',
    };
  }
  return {
    ...check,
    status: 'ok',
    detail: disabled === undefined ? 'allowed (this kernel has no switch for it)' : 'allowed',
  };
}
