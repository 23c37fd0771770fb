/** What commands that make a VM have in common: its image, and settings that flags and the user's defaults give it. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import type { UserDefaults } from '../../manager/defaults.ts';
import { managerPaths } from '../../manager/paths.ts';
import { ensureSshKey } from '../../manager/ssh/key.ts';
import type { NewVm } from '../../manager/vms/create.ts';
import type { DiskFormat } from '../../storage/open.ts';
import { progressOf } from '../image/pull.ts';
import { whileShown } from '../progress.ts';
import { argument } from '../verb.ts';

export type VmFlags = {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  readonly format?: DiskFormat;
  /** bytes */
  readonly mem?: number;
  readonly cpus?: number;
  /** bytes */
  readonly disk?: number;
  readonly user?: string;
  readonly net?: readonly string[];
  readonly publish?: readonly string[];
  readonly share?: readonly string[];
  readonly cloudInit?: string;
  readonly sshKey?: readonly string[];
  readonly jail?: 'on' | 'off';
  readonly cpuLimit?: number;
  readonly memoryLimit?: number;
};

/** Arguments that are kept as they are, once they make sense. */
export function textsOf(
  parse: (text: string) => unknown,
): (text: string, previous: readonly string[] | undefined) => string[] {
  const one = argument(parse);
  return (text, previous = []) => {
    one(text);
    return [...previous, text];
  };
}

/**
 * Makes a VM on an image, which is downloaded where it is not here, or on a disk of the user's.
 * @param make has to have the overlay made when it resolves
 */
export async function onBase<T>(
  image: string,
  name: string,
  flags: VmFlags,
  make: (vm: NewVm) => Promise<T>,
): Promise<T> {
  const { loadDefaults } = await import('../../manager/defaults.ts');
  const paths = managerPaths();
  const defaults = loadDefaults(paths.config);
  const { user, disk: leastDisk = 0, sshKeys: sshKey } = defaults;
  // A disk of the user's may have no cloud-init, and its login is as it is: there only flags say who.
  if (isPath(image)) {
    const disk = { path: image, format: flags.format ?? 'raw' };
    const base = { disk, image: basename(image) };
    return make(complete(name, base, { ...flagsOf(defaults), ...flags }, seedOf(flags)));
  }
  const settings = { ...flagsOf(defaults), ...(user !== undefined && { user }), ...flags };
  const { ensureImage } = await import('../../manager/images/pull.ts');
  const { onImage } = await import('../../manager/vms/image-base.ts');
  const { id } = await whileShown(`pulling ${image}`, (tell) =>
    ensureImage(paths, image, { onProgress: (progress) => tell(...progressOf(progress)) }),
  );
  const asked = seedOf({ ...(sshKey !== undefined && { sshKey }), ...settings });
  return onImage(paths, id, (base, { virtualSize }) => {
    // A default makes no disk smaller than its image.
    const size = leastDisk > virtualSize ? { disk: leastDisk } : {};
    return make(complete(name, base, { ...size, ...settings }, asked));
  });
}

/** Settings of the user's that flags may take the place of. */
function flagsOf({ memory, cpus, networks }: UserDefaults): VmFlags {
  return {
    ...(memory !== undefined && { mem: memory }),
    ...(cpus !== undefined && { cpus }),
    ...(networks !== undefined && { net: networks }),
  };
}

function complete(
  name: string,
  { seed, ...base }: Omit<NewVm, 'name'>,
  flags: VmFlags,
  asked: NewVm['seed'],
): NewVm {
  const hasSeed = seed !== undefined || asked !== undefined;
  const key = hasSeed && asked?.sshKeys === undefined ? ensureSshKey(managerPaths()) : undefined;
  const sshKey = key?.path ?? privateKeyOf(flags.sshKey);
  return {
    name,
    ...base,
    ...(hasSeed && {
      seed: { agent: 'none', ...seed, ...asked, ...(key && { sshKeys: [key.publicKey] }) },
    }),
    ...(sshKey !== undefined && { sshKey }),
    ...(flags.kernel !== undefined && { kernel: flags.kernel }),
    ...(flags.initrd !== undefined && { initrd: flags.initrd }),
    ...(flags.cmdline !== undefined && { cmdline: flags.cmdline }),
    ...(flags.mem !== undefined && { memory: flags.mem }),
    ...(flags.cpus !== undefined && { cpus: flags.cpus }),
    ...(flags.disk !== undefined && { diskSize: flags.disk }),
    ...(flags.user !== undefined && { user: flags.user }),
    ...(flags.jail !== undefined && { jail: flags.jail }),
    ...(flags.cpuLimit !== undefined && { cpuLimit: flags.cpuLimit }),
    ...(flags.memoryLimit !== undefined && { memoryLimit: flags.memoryLimit }),
    ...(flags.net !== undefined && { networks: flags.net }),
    ...(flags.publish !== undefined && { publish: flags.publish }),
    ...(flags.share !== undefined && { shares: flags.share }),
  };
}

/** What the user wants cloud-init to know. */
function seedOf({ cloudInit, sshKey, user }: VmFlags): NewVm['seed'] {
  if (cloudInit === undefined && sshKey === undefined) return undefined;
  return {
    ...(user !== undefined && { user }),
    ...(cloudInit !== undefined && { userData: { content: readFileSync(cloudInit), name: cloudInit } }),
    ...(sshKey !== undefined && { sshKeys: sshKey.flatMap(keysIn) }),
  };
}

/** The private key beside the first public one, as ssh-keygen leaves them. */
function privateKeyOf(files: VmFlags['sshKey']): string | undefined {
  const path = files?.find((file) => file.endsWith('.pub') && existsSync(file.slice(0, -'.pub'.length)));
  return path === undefined ? undefined : resolve(path.slice(0, -'.pub'.length));
}

/** A file like `id_ed25519.pub`, or like authorized_keys. */
function keysIn(file: string): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

/** Names of images have no slash. */
function isPath(image: string): boolean {
  return image.includes('/') || (/\.(raw|img|qcow2)$/.test(image) && existsSync(image));
}

/** `ubuntu:24.04` and `disk/ubuntu.qcow2` make VMs of the name `ubuntu`. */
export function nameOf(image: string): string {
  return basename(image)
    .replace(/[:.].*$/, '')
    .toLowerCase()
    .replaceAll(/[^a-z0-9-]/g, '-');
}
