import { describe, expect, it } from 'vitest';

import { ioUringCheck } from '../../../src/manager/doctor/io-uring.ts';
import { memoryChecks } from '../../../src/manager/doctor/memory.ts';
import { nestingCheck } from '../../../src/manager/doctor/nesting.ts';
import type { Check } from '../../../src/manager/doctor/check.ts';
import { ALICE, fakeHost, ROOT } from './fake-host.ts';

const THP = '/sys/kernel/mm/transparent_hugepage/enabled';
const POOLS = '/sys/kernel/mm/hugepages';

async function memoryCheck(id: string, files: Record<string, string>): Promise<Check | undefined> {
  return (await memoryChecks(fakeHost(files))).find((check) => check.id === id);
}

describe('nesting', () => {
  it('is told from the hypervisor flag, with the names DMI has', async () => {
    const check = await nestingCheck(
      fakeHost({
        '/proc/cpuinfo': 'processor : 0\nflags\t\t: fpu hypervisor\nflags\t\t: fpu hypervisor\n',
        '/sys/class/dmi/id/sys_vendor': 'QEMU\n',
        '/sys/class/dmi/id/product_name': 'Standard PC (Q35 + ICH9, 2009)\n',
      }),
    );
    expect(check.status).toBe('warning');
    expect(check.detail).toContain('virtual machine (QEMU Standard PC (Q35 + ICH9, 2009))');
  });

  it('is told from /sys/hypervisor where the flag is hidden', async () => {
    const check = await nestingCheck(
      fakeHost({ '/proc/cpuinfo': 'flags : fpu\n', '/sys/hypervisor/type': 'xen\n' }),
    );
    expect(check.detail).toContain('virtual machine (xen)');
  });

  it('is not there on bare metal', async () => {
    const check = await nestingCheck(
      fakeHost({ '/proc/cpuinfo': 'flags\t\t: fpu svm\n', '/sys/class/dmi/id/sys_vendor': 'LENOVO\n' }),
    );
    expect(check).toMatchObject({ status: 'ok', detail: 'bare metal (LENOVO)' });
  });
});

describe('transparent huge pages', () => {
  it.each(['always', 'madvise'])('are well with %s', async (chosen) => {
    const text = 'always madvise never'.replace(chosen, `[${chosen}]`);
    expect(await memoryCheck('transparent-huge-pages', { [THP]: text })).toMatchObject({
      status: 'ok',
      detail: chosen,
    });
  });

  it('are a warning when off, with the command', async () => {
    expect(await memoryCheck('transparent-huge-pages', { [THP]: 'always madvise [never]\n' })).toMatchObject({
      status: 'warning',
      fix: `echo madvise | sudo tee ${THP}`,
    });
  });

  it('are a warning in a kernel without them', async () => {
    expect(await memoryCheck('transparent-huge-pages', {})).toMatchObject({ status: 'warning' });
  });
});

describe('the huge page pool', () => {
  it('may be empty', async () => {
    expect(await memoryCheck('huge-page-pool', {})).toMatchObject({
      status: 'ok',
      detail: 'empty (optional)',
    });
  });

  it('is shown by page size', async () => {
    const check = await memoryCheck('huge-page-pool', {
      [`${POOLS}/hugepages-1048576kB/nr_hugepages`]: '4\n',
      [`${POOLS}/hugepages-1048576kB/free_hugepages`]: '3\n',
      [`${POOLS}/hugepages-2048kB/nr_hugepages`]: '512\n',
      [`${POOLS}/hugepages-2048kB/free_hugepages`]: '100\n',
    });
    expect(check?.detail).toBe('100 of 512 pages of 2 MiB free, 3 of 4 pages of 1 GiB free');
  });
});

describe('memory', () => {
  const plenty = 'MemTotal:       16384000 kB\nMemFree: 1000 kB\nMemAvailable:    8388608 kB\n';

  it('is what the kernel says is available', async () => {
    const check = await memoryCheck('memory', { '/proc/meminfo': plenty });
    expect(check).toMatchObject({ status: 'ok', detail: '8192 MiB available' });
  });

  it('is scarce below what the default VM takes', async () => {
    const check = await memoryCheck('memory', { '/proc/meminfo': 'MemAvailable: 524288 kB\n' });
    expect(check).toMatchObject({ status: 'warning', detail: '512 MiB available' });
  });

  it('is limited by any control group above this process', async () => {
    const check = await memoryCheck('memory', {
      '/proc/meminfo': plenty,
      '/proc/self/cgroup': '0::/user.slice/job\n',
      '/sys/fs/cgroup/user.slice/job/memory.max': 'max\n',
      '/sys/fs/cgroup/user.slice/memory.max': '268435456\n',
    });
    expect(check).toMatchObject({
      status: 'warning',
      detail: '8192 MiB available, but the control group allows 256 MiB',
    });
  });
});

describe('io_uring', () => {
  const SYSCTL = '/proc/sys/kernel/io_uring_disabled';
  const GROUP = '/proc/sys/kernel/io_uring_group';

  it('is allowed with 0, and where there is no switch', async () => {
    expect((await ioUringCheck(fakeHost({ [SYSCTL]: '0\n' }))).status).toBe('ok');
    expect((await ioUringCheck(fakeHost())).status).toBe('ok');
  });

  it('is off for all with 2, root too', async () => {
    expect(await ioUringCheck(fakeHost({ [SYSCTL]: '2\n' }, ROOT))).toMatchObject({
      status: 'warning',
      fix: 'sysctl kernel.io_uring_disabled=0',
    });
  });

  it('is for root and a group with 1', async () => {
    const files = { [SYSCTL]: '1\n', [GROUP]: '500\n' };
    const member = { ...ALICE, groups: [1000, 500] };
    expect((await ioUringCheck(fakeHost(files))).status).toBe('warning');
    expect((await ioUringCheck(fakeHost(files, member))).status).toBe('ok');
    expect((await ioUringCheck(fakeHost(files, ROOT))).status).toBe('ok');
  });

  it('has no group with 1 where none is set', async () => {
    const check = await ioUringCheck(fakeHost({ [SYSCTL]: '1\n', [GROUP]: '-1\n' }));
    expect(check.status).toBe('warning');
  });

  it('may be refused by the filter of a container', async () => {
    const files = { [SYSCTL]: '0\n', '/proc/self/status': 'Name: node\nSeccomp:\t2\n' };
    expect((await ioUringCheck(fakeHost({ ...files, '/.dockerenv': '' }))).detail).toContain('seccomp');
    expect((await ioUringCheck(fakeHost(files))).status).toBe('ok');
  });
});
