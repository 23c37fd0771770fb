import { join } from 'node:path';
import { kernelOf, moduleOrder } from '../../images/debian/kernel.ts';
import { fetchPackage } from '../../images/debian/packages.ts';
import type { GuestHost } from './host.ts';
import { LEVEL1_KERNEL } from './level1.ts';

/**
 * Sees to kernel modules on the host of the guests, e.g. `bridge`. Level 1 starts with few, and has no modprobe for
 * its kernel; elsewhere it is modprobe that inserts them.
 * @throws Error with what was said where one cannot be inserted
 */
export async function insertModules(
  host: Pick<GuestHost, 'kind' | 'exec'>,
  names: readonly string[],
): Promise<void> {
  const { code, stderr } =
    host.kind === 'direct'
      ? await host.exec(['modprobe', '-a', ...names])
      : await host.exec(await insertion(names));
  if (code !== 0) throw new Error(`cannot insert ${names.join(', ')}: ${stderr}`);
}

async function insertion(names: readonly string[]): Promise<string> {
  const busybox = join((await fetchPackage('busybox-static')).root, 'bin/busybox');
  const modules = await moduleOrder(await kernelOf(LEVEL1_KERNEL), names);
  return modules
    .map(({ name, file }) => `grep -q '^${name} ' /proc/modules || '${busybox}' insmod '${file}' || exit 1`)
    .join('\n');
}
