/** Goes back to a snapshot. */
import { copyFileSync, existsSync, linkSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { diskInfo, createOverlay } from '../../storage/tools.ts';
import { readState, STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import { layerFile, RESUME, VM_INI } from '../vms/files.ts';
import { whileVmLocked } from '../vms/folder-lock.ts';
import { killVm } from '../vms/lifecycle.ts';
import type { VmStore } from '../vms/store.ts';
import { readVmIni } from '../vms/vm-ini.ts';
import type { VmSettings } from '../vms/settings.ts';
import { createLocked } from './create.ts';
import { SnapshotError } from './errors.ts';
import { isLayer } from './layers.ts';
import { checkSnapshotName } from './name.ts';
import { digestOf, machineFiles, RECORD, snapshotFolder, type SnapshotRecord } from './record.ts';
import { comingPath, recover, switchOver } from './recover.ts';
import { collect, getSnapshot, refuseTaken } from './store.ts';

/** So many layers that nobody needs for themselves make a disk slow that lies on them. */
const LONG_CHAIN = 8;

export type RestoreOptions = {
  /** name of a snapshot of what the VM is now, which is taken first; default: that is lost */
  readonly saveCurrent?: string;
};

/**
 * Has a VM be as it was at a snapshot: its disks, its settings, and where the snapshot has memory, what ran: that is
 * gone on with at the next start. A VM that runs is ended.
 * @returns the snapshot's record
 * @throws SnapshotError, StorageError; the VM is as before then
 */
export async function restoreSnapshot(
  store: VmStore,
  name: string,
  snapshot: string,
  { saveCurrent }: RestoreOptions = {},
): Promise<SnapshotRecord> {
  const folder = store.folderOf(name);
  return await whileVmLocked(folder, async () => {
    recover(folder);
    const record = getSnapshot(store, name, snapshot);
    const settings = await checkSnapshot(folder, name, record);
    if (saveCurrent !== undefined) {
      refuseTaken(folder, name, checkSnapshotName(saveCurrent));
      await createLocked(store, name, { name: saveCurrent });
    }
    const names = await prepare(folder, record, settings);
    if (store.status(name).state === 'running') await killVm(store, name);
    switchOver(folder, names, record.id);
    store.events?.add(name, 'restored', snapshot);
    // One that is to go on is not kept waiting for what `stop` does as well (tidySnapshots), but for a long chain.
    await collect(folder, false, record.memory ? { least: LONG_CHAIN } : {});
    return record;
  });
}

/**
 * Whether all of a snapshot is there, and is what it was.
 * @returns the settings that the VM had
 * @throws SnapshotError (EFORMAT), StorageError, IniError
 */
export async function checkSnapshot(
  folder: string,
  name: string,
  record: SnapshotRecord,
): Promise<VmSettings> {
  const own = snapshotFolder(folder, record.name);
  const damaged = (why: string): SnapshotError =>
    new SnapshotError('EFORMAT', `the snapshot '${record.name}' of the VM '${name}' is damaged: ${why}`);
  if (!existsSync(join(own, VM_INI))) throw damaged(`it has no ${VM_INI}`);
  const settings = readVmIni(join(own, VM_INI));
  for (const { disk, layer } of record.disks) {
    const file = layerFile(layer);
    const named = settings.disks[disk];
    if (named?.format !== 'qcow2' || !/^[^/.][^/]*$/.test(named.file) || isLayer(named.file))
      throw damaged(`its ${VM_INI} has no qcow2 disk ${disk} in the VM's folder`);
    if (!existsSync(join(folder, file))) throw damaged(`${file} is not there`);
    await diskInfo(
      { path: join(folder, file), format: 'qcow2', backing: { trusted: named.trustBacking } },
      { chain: true, share: true },
    );
  }
  if (record.memory) {
    if (!existsSync(join(own, STATE_FILE))) throw damaged(`${STATE_FILE} is not there`);
    if (record.state !== digestOf(join(own, STATE_FILE)))
      throw damaged(`${STATE_FILE} has another checksum than it had`);
    for (const { file } of readState(join(own, STATE_FILE)).memory.layers)
      if (!existsSync(join(own, file))) throw damaged(`${file} is not there`);
  }
  return settings;
}

/** Makes all that the VM is to have. @returns the names */
async function prepare(folder: string, record: SnapshotRecord, settings: VmSettings): Promise<string[]> {
  const own = snapshotFolder(folder, record.name);
  const names: string[] = [];
  for (const { disk, layer } of record.disks) {
    const { file, trustBacking } = settings.disks[disk]!;
    await createOverlay(
      comingPath(folder, file),
      { name: layerFile(layer), format: 'qcow2' },
      { trusted: trustBacking, frozen: true },
    );
    names.push(file);
  }
  copyFileSync(join(own, VM_INI), comingPath(folder, VM_INI));
  names.push(VM_INI);
  if (record.memory) {
    linkMachine(own, comingPath(folder, RESUME));
    names.push(RESUME);
  }
  return names;
}

/** Gives a folder what a VM goes on from, which a snapshot has. */
export function linkMachine(from: string, to: string): void {
  mkdirSync(to, { mode: 0o700 });
  for (const file of [...machineFiles(from), VM_INI, RECORD]) linkSync(join(from, file), join(to, file));
}
