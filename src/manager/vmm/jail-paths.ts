/** Which files a VM's process needs once its guest runs. */
import { existsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { PathRule } from '../../kvm/jail.ts';
import { packageRoot } from '../../kvm/package-root.ts';
import { diskInfo } from '../../storage/tools.ts';
import type { VmOptions } from '../../vmm/types.ts';
import type { VmSettings } from '../vms/settings.ts';

export type JailPaths = {
  readonly rules: readonly PathRule[];
  /** how many files it may have open */
  readonly files: number;
};

/** Disks, their backing files, sockets and clients. */
const FILES = 4096;
/** A share holds a descriptor of each file that its guest knows. */
const FILES_OF_SHARES = 2 ** 19;

/** What Node and the addon may load yet: parts of tsvm, and of the C library. */
const LIBRARIES = ['/lib', '/lib64', '/usr/lib', '/usr/lib64', '/etc/ld.so.cache'];
const DEVICES = ['/dev/kvm', '/dev/null'];

/**
 * @param folder the VM's, which is the working directory
 * @throws StorageError where a disk cannot be read
 */
export async function jailPaths(
  folder: string,
  settings: VmSettings,
  { initrds = [], networks = [], shares = [] }: VmOptions,
): Promise<JailPaths> {
  const taps = networks.some(({ kind }) => kind === 'tap');
  const rules: PathRule[] = [
    { path: folder, access: 'write' },
    { path: '/proc/self', access: 'read' },
    { path: '/dev/urandom', access: 'read' },
    ...['dist', 'firmware', 'package.json'].map((name) => reading(join(packageRoot(), name))),
    ...LIBRARIES.map(reading),
    ...DEVICES.map((path): PathRule => ({ path, access: 'device' })),
    // A tap that was taken away is made anew when it can be.
    ...(taps ? [{ path: '/dev/net/tun', access: 'device' } as const] : []),
    ...(taps ? ['/sys/class/net', '/sys/devices/virtual/net'].map(reading) : []),
    ...initrds.map(reading),
    ...(await Promise.all(settings.disks.map(diskRules))).flat(),
    ...shares.map(({ path, readOnly = false }): PathRule => ({ path, access: readOnly ? 'read' : 'write' })),
  ];
  return {
    rules: rules.filter(({ path }) => existsSync(path)),
    files: shares.length > 0 ? FILES_OF_SHARES : FILES,
  };
}

const reading = (path: string): PathRule => ({ path: resolve(path), access: 'read' });

/** A disk, and what is below it, which nobody writes to. */
async function diskRules({
  file,
  format,
  readOnly,
  trustBacking,
}: VmSettings['disks'][number]): Promise<PathRule[]> {
  const source = { path: file, format, ...(trustBacking && { backing: { trusted: true } }) };
  const [, ...below] = await diskInfo(source, { chain: true, share: true });
  const isDevice = statSync(file).isBlockDevice();
  return [
    isDevice ? { path: file, access: 'device' } : { path: file, access: readOnly ? 'read' : 'write' },
    ...(isDevice ? ['/sys/dev/block', '/sys/devices'].map(reading) : []),
    ...below.map(({ path }) => reading(path)),
  ];
}
