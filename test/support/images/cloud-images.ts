/** Images as distributors have them, on a server laid out as theirs, that boot: a system made of Debian's packages. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { cacheRoot, makeDirectoryOnce, step } from '../../../images/debian/cache.ts';
import { kernelOf, type Kernel } from '../../../images/debian/kernel.ts';
import { convertDisk } from '../../../src/storage/tools.ts';
import { agentInitramfs, NETWORK_UP } from '../agent-guest.ts';
import { mkconfig } from '../cloud-disks.ts';
import { makeDisk, makeExt, type Tree } from '../storage/guest-image.ts';
import { ALMA, ALMA_DISK, DEBIAN, DEBIAN_DISK, UBUNTU_FILES } from './distributors.ts';

/** in each image: the name of its distributor */
export const MARK = '/etc/made-as';

/**
 * A folder for a web server, as {@link UBUNTU_FILES} and the others have the paths. Made once. All are of the guest agent
 * and what it takes to reach others: an Ubuntu, whose kernel and initrd lie unpacked beside it, a Debian, whose kernel is
 * named by GRUB's configuration in its root file system, and an AlmaLinux, where entries of the Boot Loader
 * Specification do that.
 */
export async function cloudImages(): Promise<string> {
  const kernel = await kernelOf('linux-image-cloud-amd64');
  const initrd = await agentInitramfs(kernel, { modules: MODULES, setUp: SET_UP });
  const folder = join(cacheRoot(), 'test', `cloud-images-3-${basename(initrd, '.cpio')}`);
  await step('making images as distributors have them (once)', () =>
    makeDirectoryOnce(folder, (into) => layOut(kernel, initrd, into)),
  );
  return folder;
}

const MODULES = [
  ...['virtio_blk', 'virtio_net', 'virtio_balloon', 'ext4'],
  // the seed of cloud-init
  ...['vfat', 'nls_cp437', 'nls_ascii'],
];
/** The root file system is below /mnt: what is of the image, and what is kept. A shell is on the console. */
const SET_UP = `
mount -t ext4 /dev/vda1 /mnt
cp /mnt${MARK} /etc/
mkdir -p /sbin
cat > /sbin/shutdown <<'END'
#!/bin/sh
umount /mnt
poweroff -f
END
chmod 755 /sbin/shutdown
${NETWORK_UP}
setsid sh -c 'while :; do sh -i </dev/ttyS0 >/dev/ttyS0 2>&1; done' &
`;
const ROOT_UUID = '7d0f6f0e-5d2b-4c35-9a77-2b1f0c8c5a01';
const ROOT_MIB = 96;
const OPTIONS = `root=UUID=${ROOT_UUID} ro quiet console=tty0 console=ttyS0,115200`;

async function layOut(kernel: Kernel, initrd: string, folder: string): Promise<void> {
  const put = async (path: string, from: string): Promise<void> => {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await copyFile(from, join(folder, path));
  };
  await smallDisk(join(folder, UBUNTU_FILES.disk), 'ubuntu', {}, 'cloudimg-rootfs');
  await put(UBUNTU_FILES.kernel, kernel.vmlinuz);
  await put(UBUNTU_FILES.initrd, initrd);
  await writeSums(folder, UBUNTU_FILES.sums, 'sha256', [UBUNTU_FILES.disk], ' *');
  await writeSums(
    folder,
    UBUNTU_FILES.kernelSums,
    'sha256',
    [UBUNTU_FILES.kernel, UBUNTU_FILES.initrd],
    ' *',
  );
  await grubDisk(join(folder, DEBIAN_DISK), 'debian', kernel, initrd);
  await writeSums(folder, `${DEBIAN}/SHA512SUMS`, 'sha512', [DEBIAN_DISK], '  ');
  await blsDisk(join(folder, ALMA_DISK), 'almalinux', kernel, initrd);
  await writeSums(folder, `${ALMA}/CHECKSUM`, 'sha256', [ALMA_DISK], '  ');
}

const bootFiles = async ({ version, vmlinuz }: Kernel, initrd: string): Promise<Tree> => ({
  [`boot/vmlinuz-${version}`]: await readFile(vmlinuz),
  [`boot/initrd.img-${version}`]: await readFile(initrd),
});

/** A small disk that GRUB boots by what grub-mkconfig writes. @param initrd is all of the guest */
export async function grubDisk(path: string, name: string, kernel: Kernel, initrd: string): Promise<void> {
  const grub = mkconfig([kernel.version], '/boot', ROOT_UUID, OPTIONS);
  await smallDisk(path, name, { ...(await bootFiles(kernel, initrd)), 'boot/grub/grub.cfg': grub });
}

/** As {@link grubDisk}, by an entry of the Boot Loader Specification. */
async function blsDisk(path: string, name: string, kernel: Kernel, initrd: string): Promise<void> {
  const { version } = kernel;
  const entry = `title AlmaLinux\nversion ${version}\nlinux /boot/vmlinuz-${version}\ninitrd /boot/initrd.img-${version}\noptions ${OPTIONS}\n`;
  await smallDisk(path, name, {
    ...(await bootFiles(kernel, initrd)),
    'boot/grub2/grub.cfg': 'insmod blscfg\nblscfg\n',
    [`boot/loader/entries/${'0'.repeat(32)}-${version}.conf`]: entry,
  });
}

/** A disk with one partition. */
async function smallDisk(path: string, name: string, files: Tree, label?: string): Promise<void> {
  await withWork(path, async (work) => {
    const image = join(work, 'root.ext4');
    await makeExt(
      image,
      { ...files, [MARK.slice(1)]: `${name}\n` },
      {
        size: ROOT_MIB,
        uuid: ROOT_UUID,
        ...(label !== undefined && { label }),
      },
    );
    const raw = join(work, 'disk.raw');
    await makeDisk(raw, 'gpt', [{ image, size: ROOT_MIB }]);
    return raw;
  });
}

/** Makes a compressed qcow2 image, as all of them are, of a raw one. @param make in a folder that is removed */
async function withWork(path: string, make: (work: string) => Promise<string>): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const work = await mkdtemp(join(dirname(path), 'work-'));
  try {
    const raw = await make(work);
    await convertDisk({ path: raw, format: 'raw' }, { format: 'qcow2', path, compressed: true });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function writeSums(
  folder: string,
  list: string,
  algorithm: 'sha256' | 'sha512',
  paths: readonly string[],
  between: ' *' | '  ',
): Promise<void> {
  const lines: string[] = [];
  for (const path of paths) {
    const hash = createHash(algorithm);
    for await (const chunk of createReadStream(join(folder, path))) hash.update(chunk as Buffer);
    lines.push(`${hash.digest('hex')}${between}${basename(path)}\n`);
  }
  await mkdir(dirname(join(folder, list)), { recursive: true });
  await writeFile(join(folder, list), lines.join(''));
}
