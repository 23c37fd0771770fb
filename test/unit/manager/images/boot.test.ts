import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NotBootableError } from '../../../../src/manager/images/boot/error.ts';
import { extractBoot } from '../../../../src/manager/images/boot/extract.ts';
import { findBoot, type BootFile, type GuestBoot } from '../../../../src/manager/images/boot/find-boot.ts';
import { GuestDisk, withGuestDisk } from '../../../../src/storage/guest-fs/guest-disk.ts';
import { memoryReader } from '../../../../src/storage/guest-fs/reader.ts';
import {
  BOOT_UUID,
  CloudDisks,
  fakeInitrd,
  fakeKernel,
  grubEnv,
  kernelsIn,
  mkconfig,
  ROOT_TYPE,
  ROOT_UUID,
} from '../../../support/cloud-disks.ts';
import type { Tree } from '../../../support/storage/guest-image.ts';

let disks: CloudDisks;
beforeAll(() => void (disks = new CloudDisks()));
afterAll(() => disks.remove());

const NEW = '6.1.0-10-cloud-amd64';
const OLD = '6.1.0-9-cloud-amd64';

const bootOf = async (path: string): Promise<GuestBoot> =>
  findBoot(await GuestDisk.read(memoryReader(readFileSync(path))));

async function contentOf({ file }: BootFile): Promise<Buffer> {
  const bytes = Buffer.alloc(file.size);
  await file.read(0, bytes);
  return bytes;
}

/** One root file system on a disk of its own. */
async function rootOnly(tree: Tree): Promise<string> {
  return disks.disk('gpt', [await disks.ext(tree, ROOT_UUID)]);
}

/** What must be said of a disk that cannot be booted. */
async function refusal(path: string): Promise<NotBootableError> {
  const result: unknown = await bootOf(path).catch((error: unknown) => error);
  expect(result).toBeInstanceOf(NotBootableError);
  return result as NotBootableError;
}

describe('GRUB with menu entries', () => {
  test('as on Debian: the first entry, with its kernel, initrd and command line', async () => {
    const boot = await bootOf(await disks.debian([NEW, OLD]));
    expect(boot).toMatchObject({
      title: 'Linux',
      source: 'GRUB, /EFI/debian/grub.cfg on partition 3',
      kernel: { path: `/boot/vmlinuz-${NEW}`, partition: 1 },
      initrds: [{ path: `/boot/initrd.img-${NEW}` }],
      commandLine: `root=PARTUUID=${ROOT_UUID} ro console=ttyS0,115200`,
      rootPartition: { number: 1, uuid: ROOT_UUID },
      notes: [],
    });
    expect(await contentOf(boot.kernel)).toEqual(fakeKernel(NEW));
    expect(await contentOf(boot.initrds[0]!)).toEqual(fakeInitrd(NEW));
  });

  test('as on Ubuntu: with a /boot of its own', async () => {
    const boot = await bootOf(await disks.ubuntu([NEW, OLD]));
    expect(boot).toMatchObject({
      kernel: { path: `/vmlinuz-${NEW}`, partition: 2, fsUuid: BOOT_UUID },
      commandLine: 'root=LABEL=cloudimg-rootfs ro console=tty1 console=ttyS0',
      rootPartition: { number: 1 },
    });
  });

  test('the entry that was saved, in a submenu', async () => {
    const saved_entry = `gnulinux-advanced-${ROOT_UUID}>gnulinux-${OLD}-advanced-${ROOT_UUID}`;
    const path = await disks.debian([NEW, OLD], { 'boot/grub/grubenv': grubEnv({ saved_entry }) });
    expect((await bootOf(path)).kernel.path).toBe(`/boot/vmlinuz-${OLD}`);
  });

  test('the entry that was saved, by numbers', async () => {
    const path = await disks.debian([NEW, OLD], { 'boot/grub/grubenv': grubEnv({ saved_entry: '1>3' }) });
    const boot = await bootOf(path);
    expect([boot.title, boot.commandLine]).toEqual([
      `Linux ${OLD} (recovery mode)`,
      `root=PARTUUID=${ROOT_UUID} ro console=ttyS0,115200 single`,
    ]);
  });

  test('an entry for the next start alone is left to GRUB', async () => {
    const path = await disks.debian([NEW, OLD], { 'boot/grub/grubenv': grubEnv({ next_entry: '1>2' }) });
    expect((await bootOf(path)).kernel.path).toBe(`/boot/vmlinuz-${NEW}`);
  });

  test('an initrd that GRUB would take at a second try only is taken at once', async () => {
    const config = `
if [ -s $prefix/grubenv ]; then load_env; fi
if [ "\${initrdfail}" = 2 ]; then
  set initrdfail=
elif [ "\${initrdfail}" = 1 ]; then
  set next_entry="\${prev_entry}"
  if [ "\${next_entry}" ]; then set initrdfail=2; fi
fi
menuentry Ubuntu {
  if [ "\${initrdfail}" = 1 ]; then
    linux /boot/vmlinuz-${NEW} root=PARTUUID=${ROOT_UUID} ro
    initrd /boot/initrd.img-${NEW}
  else
    linux /boot/vmlinuz-${NEW} root=PARTUUID=${ROOT_UUID} ro panic=-1
  fi
  initrdfail
}`;
    const grubenv = grubEnv({ prev_entry: 'Ubuntu', initrdfail: '0' });
    const tree = { ...kernelsIn('boot/', [NEW]), 'boot/grub/grub.cfg': config, 'boot/grub/grubenv': grubenv };
    const boot = await bootOf(await rootOnly(tree));
    expect(boot.initrds.map(({ path }) => path)).toEqual([`/boot/initrd.img-${NEW}`]);
    expect(boot.commandLine).toBe(`root=PARTUUID=${ROOT_UUID} ro`);
  });

  test('variables, quotes, tests and files that are sourced', async () => {
    const config = `
set first="a b"; set second='$first'
if test -n "$first" -a ! -f /missing; then kind=good; else kind=bad; fi
if [ "$kind" = bad -o -e /nowhere ]; then
  menuentry wrong { linux /boot/vmlinuz-${OLD} }
elif [ 3 -gt 2 ]; then
  source /boot/more.cfg
fi`;
    const more = `menuentry "right $kind" {
  linux (hd0,gpt1)/boot/vmlinuz-${NEW} a="$first" \\
    $first c=$second d=\\$x 'e f' # comment
  initrd /boot/initrd.img-${NEW} /boot/initrd.img-${OLD}
}`;
    const tree = { ...kernelsIn('boot/', [NEW, OLD]), 'boot/grub/grub.cfg': config, 'boot/more.cfg': more };
    const boot = await bootOf(await rootOnly(tree));
    expect(boot).toMatchObject({ title: 'right good', commandLine: '"a=a b" a b c=$first d=$x "e f"' });
    expect(boot.initrds.map(({ path }) => path)).toEqual([
      `/boot/initrd.img-${NEW}`,
      `/boot/initrd.img-${OLD}`,
    ]);
  });

  test('a default that boots no Linux gives way to an entry that does', async () => {
    const config =
      `set default=1
menuentry Windows { chainloader +1 }
menuentry Memtest { linux16 /boot/missing.bin
}`.replace('linux16 /boot/missing.bin', 'chainloader /boot/memtest.efi') +
      `\nmenuentry Linux { linux /boot/vmlinuz-${NEW} }`;
    const boot = await bootOf(await rootOnly({ ...kernelsIn('boot/', [NEW]), 'boot/grub/grub.cfg': config }));
    expect(boot.title).toBe('Linux');
  });

  test.each([
    ['that sources itself', 'source /boot/grub/grub.cfg', 'it reads too many files'],
    [
      'that doubles a variable',
      `set a=aaaaaaaa\n${'set a=$a$a\n'.repeat(30)}`,
      'it has a word that is too long',
    ],
    ['with a quote without end', "menuentry 'Linux {", 'a quote has no end'],
    ['with an if without end', 'if true; then', 'elif or else or fi is missing'],
    ['with many levels', 'if true; then\n'.repeat(1000), 'too many commands within each other'],
  ])('a configuration %s is left out', async (_name, config, reason) => {
    const boot = await bootOf(await rootOnly({ ...kernelsIn('boot/', [NEW]), 'boot/grub/grub.cfg': config }));
    expect(boot.kernel.path).toBe(`/boot/vmlinuz-${NEW}`);
    expect(boot.notes).toEqual([`/boot/grub/grub.cfg on partition 1 is left out: ${reason}`]);
  });
});

describe('GRUB with entries of the Boot Loader Specification', () => {
  const ID = '8f2b1c0d9e8a4b7c8d6e5f4a3b2c1d0e';
  const entry = (version: string, options: string): string =>
    `title Linux (${version})\nversion ${version}\nlinux /vmlinuz-${version}\ninitrd /initramfs-${version}.img $tuned_initrd\noptions ${options}\ngrub_users $grub_users\n`;
  const NEWER = '5.14.0-503.11.1.el9_5.x86_64';
  const OLDER = '5.14.0-70.13.1.el9_0.x86_64';
  const files = (options: string): Tree => ({
    [`loader/entries/${ID}-${OLDER}.conf`]: entry(OLDER, options),
    [`loader/entries/${ID}-${NEWER}.conf`]: entry(NEWER, options),
    [`loader/entries/${ID}-0-rescue.conf`]: entry('0-rescue', options),
    ...Object.fromEntries(
      [OLDER, NEWER, '0-rescue'].flatMap((version) => [
        [`vmlinuz-${version}`, fakeKernel(version)],
        [`initramfs-${version}.img`, fakeInitrd(version)],
      ]),
    ),
  });
  const CONFIG = `
if [ -f \${config_directory}/grubenv ]; then load_env -f \${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then load_env
fi
set default="\${saved_entry}"
search --no-floppy --fs-uuid --set=boot ${BOOT_UUID}
if [ -z "\${kernelopts}" ]; then set kernelopts="root=UUID=${ROOT_UUID} ro from=config"; fi
insmod blscfg
blscfg
`;
  const STUB = `search --no-floppy --root-dev-only --fs-uuid --set=dev ${BOOT_UUID}
set prefix=($dev)/grub2
export $prefix
configfile $prefix/grub.cfg
`;

  /** @param root what is on the root partition */
  async function disk(
    options: string,
    env: Record<string, string>,
    root = 'LVM2 001',
    at = 536,
    make: 'ext' | 'xfs' = 'ext',
  ): Promise<string> {
    const boot = await disks[make](
      { 'grub2/grub.cfg': CONFIG, 'grub2/grubenv': grubEnv(env), ...files(options) },
      BOOT_UUID,
    );
    const image = join(disks.folder, `mark-${root.trim()}`);
    const bytes = Buffer.alloc(2 ** 20);
    bytes.write(root, at);
    writeFileSync(image, bytes);
    return disks.disk('gpt', [
      await disks.esp({ 'EFI/rocky/grub.cfg': STUB }),
      boot,
      { image, size: 1, type: ROOT_TYPE, uuid: ROOT_UUID },
    ]);
  }

  test('as on Rocky and Alma: the newest version, with variables of the environment block', async () => {
    const env = { kernelopts: `root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root`, tuned_params: 'skew_tick=1' };
    const boot = await bootOf(await disk('$kernelopts $tuned_params', env));
    expect(boot).toMatchObject({
      title: `Linux (${NEWER})`,
      kernel: { path: `/vmlinuz-${NEWER}`, partition: 2 },
      initrds: [{ path: `/initramfs-${NEWER}.img` }],
      commandLine: 'root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root skew_tick=1',
    });
    expect(boot.notes).toEqual(['partition 3 is not read: LVM']);
  });

  test('as on Rocky and Alma 9: from an XFS', async () => {
    const boot = await bootOf(await disk('$kernelopts', {}, 'LVM2 001', 536, 'xfs'));
    expect(boot.kernel).toMatchObject({ path: `/vmlinuz-${NEWER}`, partition: 2, fsUuid: BOOT_UUID });
    expect(await contentOf(boot.kernel)).toEqual(fakeKernel(NEWER));
    expect(await contentOf(boot.initrds[0]!)).toEqual(fakeInitrd(NEWER));
  });

  test('the entry that was saved, by its id', async () => {
    const boot = await bootOf(await disk('$kernelopts', { saved_entry: `${ID}-${OLDER}` }));
    expect([boot.kernel.path, boot.commandLine]).toEqual([
      `/vmlinuz-${OLDER}`,
      `root=UUID=${ROOT_UUID} ro from=config`,
    ]);
  });

  test('as on Fedora: the root file system is a btrfs, which need not be read', async () => {
    const options = `root=UUID=${ROOT_UUID} rootflags=subvol=root ro no_timer_check`;
    const boot = await bootOf(await disk(options, {}, '_BHRfS_M', 0x10040));
    expect(boot.commandLine).toBe(options);
    expect(boot.rootPartition).toMatchObject({ number: 3, uuid: ROOT_UUID });
  });
});

describe('other boot loaders', () => {
  test('EXTLINUX, as on Alpine', async () => {
    const config = `DEFAULT menu.c32
PROMPT 0
MENU TITLE Alpine
TIMEOUT 10
LABEL lts
  MENU LABEL Linux lts
  LINUX vmlinuz-lts
  INITRD initramfs-lts
  APPEND root=/dev/vda1
LABEL virt
  MENU DEFAULT
  MENU LABEL ^Linux virt
  LINUX vmlinuz-virt
  INITRD initramfs-virt
  APPEND root=/dev/vda1 modules=ext4 console=ttyS0,115200n8
`;
    const tree = {
      'boot/extlinux.conf': config,
      'boot/vmlinuz-virt': fakeKernel('virt'),
      'boot/initramfs-virt': fakeInitrd('virt'),
      'boot/vmlinuz-lts': fakeKernel('lts'),
      'boot/initramfs-lts': fakeInitrd('lts'),
    };
    const { image, size } = await disks.ext(tree, ROOT_UUID);
    const boot = await bootOf(await disks.disk('dos', [{ image: image!, size }]));
    expect(boot).toMatchObject({
      title: 'Linux virt',
      kernel: { path: '/boot/vmlinuz-virt' },
      initrds: [{ path: '/boot/initramfs-virt' }],
      commandLine: 'root=/dev/vda1 modules=ext4 console=ttyS0,115200n8',
      rootPartition: { number: 1, uuid: 'deadbeef-01' },
    });
  });

  test('systemd-boot, by the default of loader.conf, else by sort-key and version', async () => {
    const entry = (version: string): string =>
      `title Arch\nsort-key arch\nversion ${version}\nlinux /arch/${version}/linux\ninitrd /ucode.img\ninitrd /arch/${version}/initrd\noptions root=UUID=${ROOT_UUID} rw\noptions quiet\n`;
    const tree = {
      'loader/entries/arch-6.9.conf': entry('6.9'),
      'loader/entries/arch-6.10.conf': entry('6.10'),
      'loader/entries/broken+0-3.conf': entry('6.11'),
      'ucode.img': 'ucode',
      ...Object.fromEntries(
        ['6.9', '6.10', '6.11'].flatMap((version) => [
          [`arch/${version}/linux`, fakeKernel(version)],
          [`arch/${version}/initrd`, fakeInitrd(version)],
        ]),
      ),
    };
    const root = await disks.ext({ 'etc/fstab': '' }, ROOT_UUID);
    const boot = await bootOf(await disks.disk('gpt', [await disks.esp(tree), root]));
    expect(boot).toMatchObject({
      kernel: { path: '/arch/6.10/linux' },
      initrds: [{ path: '/ucode.img' }, { path: '/arch/6.10/initrd' }],
      commandLine: `root=UUID=${ROOT_UUID} rw quiet`,
    });
    const chosen = { ...tree, 'loader/loader.conf': 'timeout 3\ndefault arch-6.9*\n' };
    expect((await bootOf(await disks.disk('gpt', [await disks.esp(chosen), root]))).kernel.path).toBe(
      '/arch/6.9/linux',
    );
  });

  test('none: the newest kernel, with the initrd of its version and the root file system by its UUID', async () => {
    const tree = {
      'etc/os-release': '',
      ...kernelsIn('boot/', [OLD, NEW]),
      'boot/vmlinuz-9-rescue': fakeKernel('r'),
    };
    expect(await bootOf(await rootOnly(tree))).toMatchObject({
      kernel: { path: `/boot/vmlinuz-${NEW}` },
      initrds: [{ path: `/boot/initrd.img-${NEW}` }],
      commandLine: `root=UUID=${ROOT_UUID} ro`,
      rootPartition: { number: 1 },
    });
  });

  test("none: Debian's links to the kernel and its initrd", async () => {
    const tree = {
      'etc/os-release': '',
      ...kernelsIn('boot/', [OLD, NEW]),
      vmlinuz: { link: `boot/vmlinuz-${OLD}` },
      'initrd.img': { link: `boot/initrd.img-${OLD}` },
    };
    const { kernel, initrds } = await bootOf(await rootOnly(tree));
    expect([kernel.path, initrds[0]!.path]).toEqual([`/boot/vmlinuz-${OLD}`, `/boot/initrd.img-${OLD}`]);
  });
});

describe('what cannot be booted says why', () => {
  test('an empty disk', async () => {
    const path = join(disks.folder, 'zeros.raw');
    writeFileSync(path, Buffer.alloc(2 ** 20));
    expect(await refusal(path)).toMatchObject({ code: 'EEMPTY', message: 'the disk is empty' });
  });

  test('file systems that are not read, by their names', async () => {
    const image = join(disks.folder, 'luks');
    const bytes = Buffer.alloc(2 ** 20);
    bytes.write('LUKS\xba\xbe', 0, 'latin1');
    writeFileSync(image, bytes);
    const path = await disks.disk('gpt', [await disks.esp({ 'EFI/x/shim.efi': '' }), { image, size: 1 }]);
    expect(await refusal(path)).toMatchObject({
      code: 'EFILESYSTEM',
      message: 'no kernel is where it can be read: partition 2 is LUKS encryption',
    });
  });

  test('a disk with files and no kernel', async () => {
    expect(await refusal(await rootOnly({ 'etc/os-release': '' }))).toMatchObject({ code: 'ENOKERNEL' });
  });

  test('an entry whose kernel is gone', async () => {
    const path = await rootOnly({ 'boot/grub/grub.cfg': mkconfig([NEW], '/boot', ROOT_UUID, 'ro') });
    expect(await refusal(path)).toMatchObject({
      code: 'EENTRY',
      message: `/boot/vmlinuz-${NEW} on partition 1 cannot be read (there is no /boot/vmlinuz-${NEW}), which is what GRUB, /boot/grub/grub.cfg on partition 1 would boot`,
    });
  });

  test('a kernel of another kind of machine', async () => {
    const arm = Buffer.alloc(70_000);
    arm.write('ARMd', 0x38);
    const path = await rootOnly({ ...kernelsIn('boot/', [NEW]), [`boot/vmlinuz-${NEW}`]: arm });
    expect(await refusal(path)).toMatchObject({
      code: 'EENTRY',
      message: `/boot/vmlinuz-${NEW} on partition 1 is an arm64 kernel Image, not a kernel for x86-64`,
    });
  });

  test('what would write to the terminal of whoever reads it', async () => {
    const config = `menuentry '\x1b[31mred' { linux /\x1b]0;title\x07 }`;
    const { message } = await refusal(await rootOnly({ 'boot/grub/grub.cfg': config }));
    expect(message).toMatch(/^[\x20-\x7e]+$/);
  });
});

describe('files that are taken out', () => {
  const extract = (path: string, folder: string) =>
    withGuestDisk({ path }, (disk) => extractBoot(disk, folder));

  test('have the content that they have in the guest, and are taken out once', async () => {
    const path = await disks.debian([NEW, OLD]);
    const folder = join(disks.folder, 'boot-files');
    const first = await extract(path, folder);
    expect(first.wasCached).toBe(false);
    expect(readFileSync(first.kernel)).toEqual(fakeKernel(NEW));
    expect(first.initrds.map((initrd) => readFileSync(initrd))).toEqual([fakeInitrd(NEW)]);
    expect(await extract(path, folder)).toEqual({ ...first, wasCached: true });
  });

  test('make way for those of a new kernel', async () => {
    const folder = join(disks.folder, 'upgraded');
    mkdirSync(folder);
    writeFileSync(join(folder, 'kernel.txt'), 'not ours');
    await extract(await disks.debian([OLD]), folder);
    const { kernel, initrds } = await extract(await disks.debian([NEW, OLD]), folder);
    expect(readFileSync(kernel)).toEqual(fakeKernel(NEW));
    expect(readdirSync(folder).sort()).toEqual(
      [kernel, ...initrds, 'kernel.txt'].map((file) => file.split('/').at(-1)).sort(),
    );
  });

  test('are made anew where one was cut off', async () => {
    const path = await disks.debian([NEW]);
    const folder = join(disks.folder, 'cut');
    const { kernel } = await extract(path, folder);
    writeFileSync(kernel, 'cut');
    await extract(path, folder);
    expect(readFileSync(kernel)).toEqual(fakeKernel(NEW));
  });
});
