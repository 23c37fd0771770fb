/** Takes snapshots. */
import { randomUUID } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { syncFolder } from '../../storage/sync-folder.ts';
import { freezeDisk } from '../../storage/tools.ts';
import { STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import { packageVersion } from '../../kvm/package-version.ts';
import { CLONE, layerFile, RESUME, SNAPSHOTS, VM_INI } from '../vms/files.ts';
import { whileVmLocked } from '../vms/folder-lock.ts';
import { VmConnection } from '../vms/lifecycle.ts';
import type { VmStore } from '../vms/store.ts';
import { formatVmIni } from '../vms/vm-ini.ts';
import { SnapshotError } from './errors.ts';
import { newLayerId, writableDisks } from './layers.ts';
import { checkSnapshotName, freeSnapshotName } from './name.ts';
import {
  digestOf,
  machineFiles,
  snapshotFolder,
  snapshotNames,
  STAGING,
  writeSnapshot,
  type SnapshotRecord,
} from './record.ts';
import { currentOf, recover, setCurrent } from './recover.ts';
import { collect, refuseTaken } from './store.ts';

export type CreateSnapshotOptions = {
  /** default: `snapshot1`, `snapshot2`, … */
  readonly name?: string;
  /** default: whether the VM runs, or is suspended */
  readonly memory?: boolean;
  /** the guest stands still only for the last of its memory; default false */
  readonly live?: boolean;
  /** its file systems are frozen at that moment, by its agent; default false */
  readonly quiesce?: boolean;
};

/** What was taken. */
export type TakenSnapshot = {
  readonly name: string;
  readonly id: string;
  readonly memory: boolean;
  /** how long the guest stood still, in milliseconds */
  readonly stopMs: number;
  /** that were written for memory, in bytes */
  readonly memoryBytes: number;
};

/**
 * Takes a snapshot of a VM: all of it is there then, or nothing, and the VM is as it was.
 * @throws SnapshotError, StorageError, ControlError
 */
export async function createSnapshot(
  store: VmStore,
  name: string,
  options: CreateSnapshotOptions = {},
): Promise<TakenSnapshot> {
  const folder = store.folderOf(name);
  return await whileVmLocked(folder, async () => {
    recover(folder);
    return await createLocked(store, name, options);
  });
}

/** As {@link createSnapshot}, for who has the VM locked. */
export async function createLocked(
  store: VmStore,
  name: string,
  options: CreateSnapshotOptions,
): Promise<TakenSnapshot> {
  const folder = store.folderOf(name);
  const snapshot = checkSnapshotName(options.name ?? freeSnapshotName(snapshotNames(folder)));
  refuseTaken(folder, name, snapshot);
  const staging = stagingFolder(folder, snapshot);
  try {
    const taken = await takeInto(store, name, staging, { ...options, name: snapshot });
    renameSync(staging, snapshotFolder(folder, snapshot));
    syncFolder(join(folder, SNAPSHOTS));
    setCurrent(folder, taken.id);
    store.events?.add(name, 'snapshot', snapshot);
    return taken;
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    // Layers that were made already are the disks' alone.
    if (store.status(name).state !== 'running') await collect(folder, false).catch(() => undefined);
    throw error;
  }
}

/** Makes the folder of a snapshot that is to be taken. */
export function stagingFolder(folder: string, snapshot: string): string {
  mkdirSync(join(folder, SNAPSHOTS), { recursive: true, mode: 0o700 });
  const staging = join(folder, SNAPSHOTS, `${STAGING}${snapshot}-${process.pid}`);
  mkdirSync(staging, { mode: 0o700 });
  return staging;
}

/** Fills the folder of a snapshot. Only for who has the VM locked. */
export async function takeInto(
  store: VmStore,
  name: string,
  staging: string,
  options: CreateSnapshotOptions & { readonly name: string },
): Promise<TakenSnapshot> {
  const folder = store.folderOf(name);
  const settings = store.settings(name);
  const disks = writableDisks(name, settings).map(({ disk }) => ({ disk, layer: newLayerId() }));
  const { memoryBytes, ...taken } =
    store.status(name).state === 'running'
      ? await takeRunning(store, name, staging, disks, options)
      : await takeStopped(store, name, staging, disks, options);
  // What its cards are called in the guest's memory must not change with the VM's name.
  const kept = { ...settings, vm: { ...settings.vm, identity: settings.vm.identity ?? name } };
  writeFileSync(join(staging, VM_INI), formatVmIni(kept, name), { mode: 0o600, flush: true });
  const id = randomUUID();
  const parent = currentOf(folder);
  const record: SnapshotRecord = {
    format: 'tsvm-snapshot',
    version: 1,
    id,
    name: options.name,
    ...(parent !== undefined && { parent }),
    created: new Date().toISOString(),
    tsvm: packageVersion(),
    ...taken,
    ram: settings.vm.memory,
    ...(settings.vm.image !== undefined && { image: settings.vm.image }),
    disks,
  };
  writeSnapshot(staging, record);
  syncFolder(staging);
  return { name: options.name, id, memory: taken.memory, stopMs: taken.stopMs, memoryBytes };
}

type Disks = SnapshotRecord['disks'];
type Taken = Pick<SnapshotRecord, 'memory' | 'live' | 'quiesced' | 'stopMs' | 'state'> & {
  readonly memoryBytes: number;
};

/** By the VM's own process. */
async function takeRunning(
  store: VmStore,
  name: string,
  staging: string,
  disks: Disks,
  { memory = true, live = false, quiesce = false }: CreateSnapshotOptions,
): Promise<Taken> {
  if (live && !memory)
    throw new SnapshotError('EINVAL', 'without memory nothing keeps the guest from running on');
  using connection = new VmConnection(store, name);
  const { stopMs, memoryBytes } = await connection.control.snapshot({
    folder: join(SNAPSHOTS, basename(staging)),
    memory,
    live,
    quiesce,
    layers: disks,
    stop: false,
  });
  const state = memory ? { state: digestOf(join(staging, STATE_FILE)) } : {};
  return { memory, live, quiesced: quiesce, stopMs, ...state, memoryBytes };
}

/** Of a VM that does not run; what a suspended one goes on from is a file already. */
async function takeStopped(
  store: VmStore,
  name: string,
  staging: string,
  disks: Disks,
  { memory, live = false, quiesce = false }: CreateSnapshotOptions,
): Promise<Taken> {
  const folder = store.folderOf(name);
  const resume = join(folder, RESUME);
  const isSuspended = existsSync(join(resume, STATE_FILE));
  if (live || quiesce || (memory === true && !isSuspended))
    throw new SnapshotError(
      'ESTOPPED',
      `the VM '${name}' is not running`,
      `start it with \`tsvm start ${name}\``,
    );
  const settings = store.settings(name);
  const withMemory = isSuspended && memory !== false;
  if (withMemory && existsSync(join(resume, CLONE)))
    throw new SnapshotError(
      'ECLONE',
      `the VM '${name}' was not started since it was cloned: what it goes on from is not its own yet`,
      `start it first (\`tsvm start ${name}\`), or take a snapshot of its disks (--no-memory)`,
    );
  if (withMemory) for (const file of machineFiles(resume)) linkSync(join(resume, file), join(staging, file));
  for (const { disk, layer } of disks) {
    const { file, trustBacking } = settings.disks[disk]!;
    await freezeDisk(join(folder, file), layerFile(layer), { trusted: trustBacking });
  }
  const state = withMemory ? { state: digestOf(join(resume, STATE_FILE)) } : {};
  return { memory: withMemory, live: false, quiesced: false, stopMs: 0, ...state, memoryBytes: 0 };
}
