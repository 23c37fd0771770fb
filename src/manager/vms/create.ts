import { writeFileSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { parseForward } from '../../net/forward.ts';
import { createOverlay } from '../../storage/tools.ts';
import type { DiskFormat } from '../../storage/open.ts';
import { makeSeed, type SeedOptions } from '../cloud-init/seed.ts';
import { parseShare } from '../options/device-options.ts';
import { networksOf, parseNet } from '../options/net-options.ts';
import { ownFolder } from './owner.ts';
import type { DiskSettings, VmSettings } from './settings.ts';
import type { VmStore } from './store.ts';

const ROOT_DISK = 'root.qcow2';
const SEED_DISK = 'seed.img';
const SEED: DiskSettings = {
  file: SEED_DISK,
  format: 'raw',
  trustBacking: false,
  readOnly: true,
  cache: 'writeback',
};

/** A VM to be made. */
export type NewVm = {
  readonly name: string;
  /** what its disk is laid over: nobody may write to it from then on */
  readonly disk: { readonly path: string; readonly format: DiskFormat };
  /** of the disk in bytes; default: as large as what is below */
  readonly diskSize?: number;
  /** default: what the boot loader on the disk would boot, looked up at each start */
  readonly kernel?: string;
  readonly initrd?: string;
  /** default: that of the boot loader, with the VM's console */
  readonly cmdline?: string;
  /** bytes; default 512 MiB */
  readonly memory?: number;
  /** default 1 */
  readonly cpus?: number;
  /** what it is made from, for people */
  readonly image?: string;
  readonly user?: string;
  /** private key of `tsvm ssh`, from the VM's folder on */
  readonly sshKey?: string;
  /** what cloud-init in the guest is told at its first boot; default: nothing */
  readonly seed?: Omit<SeedOptions, 'hostname'>;
  /** default `on`; `off` leaves its process all rights of its user */
  readonly jail?: 'on' | 'off';
  /** CPUs' worth of time for its process; default: no limit */
  readonly cpuLimit?: number;
  /** memory for its process, in bytes; default: no limit */
  readonly memoryLimit?: number;
  /** network cards, as `tsvm run --net` has them; default `user` */
  readonly networks?: readonly string[];
  /** ports of the host, as `tsvm run --publish` has them */
  readonly publish?: readonly string[];
  /** folders of the host, as `tsvm run --share` has them; those of the host from this process's working directory on */
  readonly shares?: readonly string[];
};

/**
 * Makes a VM whose disk holds only what differs from the one that it is given: nothing is copied.
 * @throws VmNameError, VmStoreError (EEXIST), StorageError; nothing is left then
 */
export async function createVm(store: VmStore, vm: NewVm): Promise<void> {
  await createOwned(store, vm, false);
}

/**
 * As {@link createVm}, for a VM that is to be gone when this process is, however that ends.
 * @returns to be disposed of once the VM is deleted
 */
export async function createTemporaryVm(store: VmStore, vm: NewVm): Promise<Disposable> {
  return (await createOwned(store, vm, true))!;
}

/** Wrong ones are told before anything is made. @throws OptionError */
export function checkNetworks({ networks = ['user'], publish = [] }: NewVm): void {
  networksOf(networks.map(parseNet), { forwards: publish.map(parseForward) });
}

async function createOwned(store: VmStore, vm: NewVm, owned: boolean): Promise<Disposable | undefined> {
  const { networks = ['user'], publish = [], shares = [] } = vm;
  checkNetworks(vm);
  const absolute = shares.map((share) => {
    const { path } = parseShare(share);
    return isAbsolute(path) ? share : join(process.cwd(), share);
  });
  let owner: Disposable | undefined;
  const fill = async (folder: string): Promise<VmSettings> => {
    if (owned) owner = ownFolder(folder);
    if (vm.seed !== undefined) {
      const { disk } = makeSeed({ hostname: vm.name, ...vm.seed });
      writeFileSync(join(folder, SEED_DISK), disk, { mode: 0o600, flush: true });
    }
    await createOverlay(
      join(folder, ROOT_DISK),
      { name: resolve(vm.disk.path), format: vm.disk.format },
      { trusted: true, ...(vm.diskSize !== undefined && { size: vm.diskSize }) },
    );
    return {
      vm: {
        memory: vm.memory ?? 512 * 2 ** 20,
        cpus: vm.cpus ?? 1,
        console: 'serial',
        transport: 'pci',
        balloon: true,
        jail: vm.jail ?? 'on',
        ...(vm.cpuLimit !== undefined && { cpuLimit: vm.cpuLimit }),
        ...(vm.memoryLimit !== undefined && { memoryLimit: vm.memoryLimit }),
        ...(vm.image !== undefined && { image: vm.image }),
        ...(vm.user !== undefined && { user: vm.user }),
        ...(vm.sshKey !== undefined && { sshKey: vm.sshKey }),
      },
      boot: {
        ...(vm.kernel !== undefined && { kernel: resolve(vm.kernel) }),
        ...(vm.initrd !== undefined && { initrd: resolve(vm.initrd) }),
        ...(vm.cmdline !== undefined && { cmdline: vm.cmdline }),
      },
      disks: [
        { file: ROOT_DISK, format: 'qcow2', trustBacking: true, readOnly: false, cache: 'writeback' },
        ...(vm.seed === undefined ? [] : [SEED]),
      ],
      network: { cards: [...networks], publish: [...publish], hostAccess: false },
      shares: absolute,
    };
  };
  try {
    await store.create(vm.name, fill);
    return owner;
  } catch (error) {
    owner?.[Symbol.dispose]();
    throw error;
  }
}
