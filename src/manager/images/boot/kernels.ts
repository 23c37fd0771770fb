/** Kernels by their usual names, for disks without a boot loader that is known: made to be booted from outside. */
import type { BootEntry } from './entry.ts';
import { compareVersions } from './version-order.ts';
import { describePlace, isFile, namesIn, type Place, type Volume, type Volumes } from './volumes.ts';

const FOLDERS = ['/boot', '/'];
/** Without what comes before the version */
const KERNEL = /^(?:vmlinuz|vmlinux|bzImage|kernel)(?:-(.+))?$/;
const ASIDE = /rescue|\.(old|bak|hmac|sig|dpkg-\w+)$/;

/** Linux root partition on x86-64, Discoverable Partitions Specification (UAPI.2) */
const ROOT_TYPE = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709';

export async function newestKernel(volumes: Volumes): Promise<BootEntry | undefined> {
  const found = (await linkedKernel(volumes)) ?? (await namedKernel(volumes));
  if (found === undefined) return undefined;
  const root = await rootParameter(volumes, found.kernel.volume);
  return {
    title: found.kernel.path,
    source: `the newest kernel, ${describePlace(found.kernel)}`,
    kernel: found.kernel,
    initrds: found.initrd === undefined ? [] : [found.initrd],
    commandLine: root === undefined ? 'ro' : `root=${root} ro`,
  };
}

type Found = { readonly kernel: Place; readonly initrd?: Place };

/** Debian and Ubuntu have links to what is to be booted. */
async function linkedKernel({ readable }: Volumes): Promise<Found | undefined> {
  for (const volume of readable) {
    for (const folder of ['', '/boot']) {
      const kernel = { volume, path: `${folder}/vmlinuz` };
      const initrd = { volume, path: `${folder}/initrd.img` };
      if ((await isFile(kernel)) && (await isFile(initrd))) return { kernel, initrd };
    }
  }
  return undefined;
}

async function namedKernel({ readable }: Volumes): Promise<Found | undefined> {
  const kernels: { place: Place; version: string; names: readonly string[]; folder: string }[] = [];
  for (const volume of readable) {
    for (const folder of FOLDERS) {
      const names = await namesIn({ volume, path: folder });
      const prefix = folder === '/' ? '' : folder;
      for (const name of names) {
        const match = ASIDE.test(name) ? null : KERNEL.exec(name);
        const place = { volume, path: `${prefix}/${name}` };
        if (match !== null && (await isFile(place)))
          kernels.push({ place, version: match[1] ?? '', names, folder: prefix });
      }
    }
  }
  const newest = kernels.sort((a, b) => compareVersions(b.version, a.version))[0];
  if (newest === undefined) return undefined;
  const { place, version, names, folder } = newest;
  const dashed = version === '' ? '' : `-${version}`;
  const initrd = [
    `initrd.img${dashed}`,
    `initramfs${dashed}.img`,
    `initrd${dashed}`,
    `initramfs${dashed}`,
    `initrd${dashed}.img`,
  ].find((name) => names.includes(name));
  return initrd === undefined
    ? { kernel: place }
    : { kernel: place, initrd: { volume: place.volume, path: `${folder}/${initrd}` } };
}

/** Whether it is a root file system. */
export async function isRoot(volume: Volume): Promise<boolean> {
  for (const path of ['/etc/os-release', '/usr/lib/os-release', '/etc/fstab'])
    if (await isFile({ volume, path })) return true;
  return false;
}

async function rootParameter({ readable, others }: Volumes, ofKernel: Volume): Promise<string | undefined> {
  for (const volume of [ofKernel, ...readable])
    if (volume.fs.uuid !== '' && (await isRoot(volume))) return `UUID=${volume.fs.uuid}`;
  // One that is not read: the kernel finds it all the same.
  const partitions = others.map(({ partition }) => partition);
  const root =
    partitions.find(({ type }) => type === ROOT_TYPE) ??
    (partitions.length === 1 ? partitions[0] : undefined);
  return root === undefined || root.uuid === '' ? undefined : `PARTUUID=${root.uuid}`;
}
