/** Disks laid out as distributors lay theirs out, small, with what their boot loaders read. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '../fuzz/random.ts';
import { makeDisk, makeExt, makeFat, makeXfs, type PartitionPlan, type Tree } from './storage/guest-image.ts';

export const ROOT_TYPE = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709';
export const BOOT_TYPE = 'bc13c2ff-59e6-4262-a352-b275fd6f7172';
export const ESP_TYPE = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b';
const BIOS_TYPE = '21686148-6449-6e6f-744e-656564454649';

export const ROOT_UUID = '0d7b3a52-93a1-4d55-8b0c-6f2f7d1a9e01';
export const BOOT_UUID = '5c1a6d0e-2f7a-4a86-9d3b-1b7a4c8e2f02';

/** What is recognized as a bzImage, and is no other one's content. */
export function fakeKernel(name: string, size = 70_000): Buffer {
  const bytes = Buffer.from(
    new Random(createHash('sha256').update(name).digest().readUInt32LE()).fill(new Uint8Array(size)),
  );
  bytes.set([0x55, 0xaa], 0x1fe);
  bytes.write('HdrS', 0x202);
  return bytes;
}

export const fakeInitrd = (name: string, size = 90_000): Buffer => fakeKernel(`initrd of ${name}`, size);

export class CloudDisks {
  readonly folder = mkdtempSync(join(tmpdir(), 'tsvm-cloud-'));
  #count = 0;

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  async ext(tree: Tree, uuid: string, label?: string): Promise<PartitionPlan> {
    const image = join(this.folder, `${this.#count++}.ext`);
    await makeExt(image, tree, { uuid, size: 8, ...(label !== undefined && { label }) });
    return { image, size: 8, type: uuid === BOOT_UUID ? BOOT_TYPE : ROOT_TYPE };
  }

  async xfs(tree: Tree, uuid: string): Promise<PartitionPlan> {
    const image = join(this.folder, `${this.#count++}.xfs`);
    await makeXfs(image, tree, { uuid, size: 32 });
    return { image, size: 32, type: uuid === BOOT_UUID ? BOOT_TYPE : ROOT_TYPE };
  }

  async esp(tree: Tree): Promise<PartitionPlan> {
    const image = join(this.folder, `${this.#count++}.fat`);
    await makeFat(image, tree, { size: 4 });
    return { image, size: 4, type: ESP_TYPE };
  }

  async disk(label: 'gpt' | 'dos', partitions: readonly PartitionPlan[]): Promise<string> {
    const path = join(this.folder, `${this.#count++}.raw`);
    await makeDisk(path, label, partitions);
    return path;
  }

  /** Debian's genericcloud: one root file system with /boot, GRUB for both kinds of firmware. */
  async debian(versions: readonly string[], more: Tree = {}): Promise<string> {
    const root = await this.ext(
      {
        'etc/os-release': 'ID=debian\n',
        'boot/grub/grub.cfg': mkconfig(
          versions,
          '/boot',
          ROOT_UUID,
          `root=PARTUUID=${ROOT_UUID} ro console=ttyS0,115200`,
        ),
        ...kernelsIn('boot/', versions),
        ...more,
      },
      ROOT_UUID,
    );
    const stub = `search.fs_uuid ${ROOT_UUID} root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n`;
    const esp = await this.esp({ 'EFI/debian/grub.cfg': stub, 'EFI/debian/grubx64.efi': 'x' });
    return this.disk('gpt', [{ ...root, uuid: ROOT_UUID }, { size: 1, type: BIOS_TYPE }, esp]);
  }

  /** Ubuntu's since 24.04: /boot is a file system of its own. */
  async ubuntu(versions: readonly string[], more: Tree = {}): Promise<string> {
    const root = await this.ext(
      { 'etc/os-release': 'ID=ubuntu\n', 'boot/': '' },
      ROOT_UUID,
      'cloudimg-rootfs',
    );
    const boot = await this.ext(
      {
        'grub/grub.cfg': mkconfig(
          versions,
          '',
          BOOT_UUID,
          'root=LABEL=cloudimg-rootfs ro  console=tty1 console=ttyS0',
        ),
        ...kernelsIn('', versions),
        ...more,
      },
      BOOT_UUID,
      'BOOT',
    );
    const stub = `search.fs_uuid ${BOOT_UUID} root hd0,gpt2\nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n`;
    return this.disk('gpt', [root, boot, await this.esp({ 'EFI/ubuntu/grub.cfg': stub })]);
  }
}

export function kernelsIn(folder: string, versions: readonly string[]): Tree {
  return Object.fromEntries(
    versions.flatMap((version) => [
      [`${folder}vmlinuz-${version}`, fakeKernel(version)],
      [`${folder}initrd.img-${version}`, fakeInitrd(version)],
    ]),
  );
}

/** The shape of what grub-mkconfig writes on Debian and Ubuntu: the newest kernel first, all of them in a submenu. */
export function mkconfig(
  versions: readonly string[],
  folder: string,
  uuid: string,
  parameters: string,
): string {
  const body = (version: string): string => `
        load_video
        gfxmode $linux_gfx_mode
        insmod gzio
        if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
        insmod part_gpt
        insmod ext2
        set root='hd0,gpt9'
        if [ x$feature_platform_search_hint = xy ]; then
          search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt9 --hint-efi=hd0,gpt9  ${uuid}
        else
          search --no-floppy --fs-uuid --set=root ${uuid}
        fi
        echo    'Loading Linux ${version} ...'
        linux   ${folder}/vmlinuz-${version} ${parameters}
        echo    'Loading initial ramdisk ...'
        initrd  ${folder}/initrd.img-${version}
`;
  const id = (version: string): string => `gnulinux-${version}-advanced-${uuid}`;
  const [newest = ''] = versions;
  return `# made by hand, in the shape of grub-mkconfig's
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "\${next_entry}" ] ; then
   set default="\${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="\${saved_entry}"
fi
if [ "\${saved_entry}" ]; then set default="\${saved_entry}"; else set default="0"; fi

if [ x"\${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option

function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
  fi
}
function gfxmode {
        set gfxpayload="\${1}"
        if [ "\${1}" = "keep" ]; then set vt_handoff=vt.handoff=7; else set vt_handoff=; fi
}
if [ x$feature_default_font_path = xy ] ; then
   font=unicode
else
   font="/usr/share/grub/unicode.pf2"
fi
if loadfont $font ; then
  set gfxmode=auto
  terminal_output gfxterm
fi
for i in 1 2; do
  insmod tga
done
menuentry 'Linux' --class linux --class os $menuentry_id_option 'gnulinux-simple-${uuid}' {${body(newest)}}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-${uuid}' {
${versions.map((version) => `  menuentry 'Linux ${version}' --class os $menuentry_id_option '${id(version)}' {${body(version)}  }\n  menuentry 'Linux ${version} (recovery mode)' $menuentry_id_option '${id(version)}-recovery' {${body(version).replace(parameters, `${parameters} single`)}  }`).join('\n')}
}
if [ "$grub_platform" = "efi" ]; then
  menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' { fwsetup }
fi
if [ -f  \${config_directory}/custom.cfg ]; then
  source \${config_directory}/custom.cfg
elif [ -z "\${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
`;
}

/** An environment block, as grub-editenv(1) makes it. */
export function grubEnv(values: Readonly<Record<string, string>>): string {
  const lines = Object.entries(values).map(([name, value]) => `${name}=${value}\n`);
  return `# GRUB Environment Block\n${lines.join('')}`.padEnd(1024, '#');
}
