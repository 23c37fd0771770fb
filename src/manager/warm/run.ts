/** VMs for one command: the first of its kind boots, and later ones go on from where it had. */
import type { ManagerPaths } from '../paths.ts';
import { checkNetworks, createTemporaryVm, createVm, type NewVm } from '../vms/create.ts';
import { SNAPSHOT_CODES } from '../vms/lifecycle.ts';
import { ownFolder } from '../vms/owner.ts';
import { VmStoreError, type VmStore } from '../vms/store.ts';
import { warmKey } from './key.ts';
import { comeToRest } from './rest.ts';
import { discardWarm, hasWarm, keepWarm, layWarm } from './store.ts';

/** A VM that was made to run something. */
export type RunVm = {
  /** to be disposed of once the VM is deleted; undefined for one that stays */
  readonly owner: Disposable | undefined;
  /** it goes on from where another one had booted */
  readonly isWarm: boolean;
  /** what others have to be like to go on from the same; undefined where no other can, or is to */
  readonly key: string | undefined;
};

export type RunVmChoice = {
  /** it is gone when this process is */
  readonly temporary: boolean;
  /** it boots, and leaves nothing for others */
  readonly cold: boolean;
};

/** @throws VmNameError, VmStoreError (EEXIST), OptionError, StorageError, SnapshotError; nothing is left then */
export async function createRunVm(
  paths: ManagerPaths,
  store: VmStore,
  vm: NewVm,
  { temporary, cold }: RunVmChoice,
): Promise<RunVm> {
  checkNetworks(vm);
  const key = cold ? undefined : warmKey(vm);
  const warm = key === undefined ? undefined : await createWarm(paths, store, vm, key, temporary);
  if (warm !== undefined) return { ...warm, isWarm: true, key };
  if (temporary) return { owner: await createTemporaryVm(store, vm), isWarm: false, key };
  await createVm(store, vm);
  return { owner: undefined, isWarm: false, key };
}

/** It went while it was looked at. */
class Gone extends Error {}

async function createWarm(
  paths: ManagerPaths,
  store: VmStore,
  { name, publish = [] }: NewVm,
  key: string,
  temporary: boolean,
): Promise<Pick<RunVm, 'owner'> | undefined> {
  if (!hasWarm(paths, key)) return undefined;
  let owner: Disposable | undefined;
  try {
    await store.create(name, async (target) => {
      if (temporary) owner = ownFolder(target);
      const settings = await layWarm(paths, key, target, name);
      if (settings === undefined) throw new Gone();
      return { ...settings, network: { ...settings.network, publish: [...publish] } };
    });
    return { owner };
  } catch (error) {
    owner?.[Symbol.dispose]();
    if (error instanceof Gone) return undefined;
    throw error;
  }
}

/**
 * Whether a VM that was to go on from where another one had booted cannot, as the failure of its start says. No other
 * can then, and the next one boots.
 */
export async function isSpoilt(
  paths: ManagerPaths,
  { isWarm, key }: RunVm,
  error: unknown,
): Promise<boolean> {
  if (!isWarm || key === undefined) return false;
  if (!(error instanceof VmStoreError) || !SNAPSHOT_CODES.has(error.code)) return false;
  await discardWarm(paths, key);
  return true;
}

/**
 * To be called when the guest is up and nothing has run in it: others will go on from here.
 * @returns why they will not
 * @throws the signal's reason
 */
export async function keepBooted(
  paths: ManagerPaths,
  store: VmStore,
  name: string,
  { isWarm, key }: RunVm,
  signal?: AbortSignal,
): Promise<string | undefined> {
  if (isWarm || key === undefined) return undefined;
  try {
    await comeToRest(store, name, signal);
    await keepWarm(paths, key, store, name);
    return undefined;
  } catch (error) {
    signal?.throwIfAborted();
    return error instanceof Error ? error.message : String(error);
  }
}
