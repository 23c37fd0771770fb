/** The snapshots of a VM: what there is, and what becomes of it. */
import { readdirSync, renameSync, statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder } from '../../storage/sync-folder.ts';
import type { Progress } from '../../storage/tools.ts';
import { writeFileAtomically } from '../atomic-file.ts';
import { RESUME, SNAPSHOTS } from '../vms/files.ts';
import { whileVmLocked } from '../vms/folder-lock.ts';
import type { VmStore } from '../vms/store.ts';
import { SnapshotError } from './errors.ts';
import { allocated, joinUnneeded, LayerMap, layersOf, removeUnreached, type JoinOptions } from './layers.ts';
import { checkSnapshotName } from './name.ts';
import {
  formatSnapshot,
  readSnapshot,
  RECORD,
  snapshotFolder,
  snapshotNames,
  type SnapshotRecord,
} from './record.ts';
import { currentOf, recover, REMOVED, setCurrent } from './recover.ts';

export type SnapshotInfo = Omit<SnapshotRecord, 'format' | 'version' | 'parent' | 'state'> & {
  /** name of the snapshot that this one was taken after */
  readonly parent?: string;
  /** how many are above it in the tree */
  readonly depth: number;
  /** whether the VM descends from this one right now */
  readonly current: boolean;
  /** what the file system would have again without it, in bytes */
  readonly own: number;
  /** what others need too, in bytes: disks, snapshots, clones */
  readonly shared: number;
};

export type SnapshotList = {
  /** as a tree: each one before its children, and these by their dates */
  readonly snapshots: readonly SnapshotInfo[];
  /** folders that cannot be read as snapshots */
  readonly damaged: readonly { readonly name: string; readonly reason: string }[];
};

/** All records of a VM's folder, and why others cannot be read. */
export function readAll(folder: string): {
  readonly records: readonly SnapshotRecord[];
  readonly damaged: SnapshotList['damaged'];
} {
  const records: SnapshotRecord[] = [];
  const damaged: { name: string; reason: string }[] = [];
  for (const name of snapshotNames(folder)) {
    try {
      // The name of the folder counts: a command may have been killed while it changed both.
      records.push({ ...readSnapshot(snapshotFolder(folder, name), name), name });
    } catch (error) {
      if (!(error instanceof SnapshotError)) throw error;
      damaged.push({ name, reason: error.message });
    }
  }
  return { records, damaged };
}

/** @throws VmStoreError (ENOVM) */
export async function listSnapshots(store: VmStore, name: string): Promise<SnapshotList> {
  const folder = store.folderOf(name);
  const { records, damaged } = readAll(folder);
  if (records.length === 0) return { snapshots: [], damaged };
  const map = await LayerMap.read(folder);
  const inUse = new Set(map.disks.flatMap((disk) => map.chain(disk)));
  const current = currentOf(folder);
  const snapshots = treeOf(records).map(({ record, depth, parent }) => {
    const others = records.filter(({ id }) => id !== record.id);
    const reached = new Set([...inUse, ...others.flatMap((each) => layersOf(map, each))]);
    const sizes = { own: 0, shared: 0 };
    for (const path of filesOf(folder, record, map)) {
      const isShared = statSync(path.full).nlink > 1 || reached.has(path.name);
      sizes[isShared ? 'shared' : 'own'] += allocated(path.full);
    }
    const { id, name: own, created, tsvm, memory, live, quiesced, stopMs, ram, image, disks } = record;
    return {
      ...{ id, name: own, created, tsvm, memory, live, quiesced, stopMs, ram, disks },
      ...(image !== undefined && { image }),
      ...(parent !== undefined && { parent }),
      depth,
      current: id === current,
      ...sizes,
    };
  });
  return { snapshots, damaged };
}

type File = { readonly name: string; readonly full: string };

function filesOf(folder: string, record: SnapshotRecord, map: LayerMap): File[] {
  const own = snapshotFolder(folder, record.name);
  return [
    ...readdirSync(own).map((name) => ({ name: `${record.name}/${name}`, full: join(own, name) })),
    ...layersOf(map, record).map((name) => ({ name, full: join(folder, name) })),
  ];
}

type Place = { readonly record: SnapshotRecord; readonly depth: number; readonly parent: string | undefined };

/** One whose parent is gone, or that is its own ancestor, is a root. */
function treeOf(records: readonly SnapshotRecord[]): Place[] {
  const sorted = [...records].sort((a, b) => (a.created < b.created ? -1 : a.created > b.created ? 1 : 0));
  const places: Place[] = [];
  const left = new Set(sorted);
  const add = (record: SnapshotRecord, depth: number, parent: string | undefined): void => {
    if (!left.delete(record)) return;
    places.push({ record, depth, parent });
    for (const each of sorted) if (each.parent === record.id) add(each, depth + 1, record.name);
  };
  const isKnown = (id: string | undefined): boolean => sorted.some((each) => each.id === id);
  for (const record of sorted) if (!isKnown(record.parent)) add(record, 0, undefined);
  for (const record of sorted) add(record, 0, undefined);
  return places;
}

/** @throws SnapshotError (ENOSNAP with the names that there are, EFORMAT) */
export function getSnapshot(store: VmStore, name: string, snapshot: string): SnapshotRecord {
  checkSnapshotName(snapshot);
  const folder = store.folderOf(name);
  const label = `'${snapshot}' of the VM '${name}'`;
  try {
    const record = readSnapshot(snapshotFolder(folder, snapshot), label);
    return { ...record, name: snapshot };
  } catch (error) {
    if (!(error instanceof SnapshotError) || error.code !== 'ENOSNAP') throw error;
    const names = snapshotNames(folder);
    const hint =
      names.length === 0 ? `\`tsvm snapshot create ${name}\` takes one` : `there are ${names.join(', ')}`;
    throw new SnapshotError('ENOSNAP', error.message, hint);
  }
}

/** @throws SnapshotError (ENOSNAP, EEXIST) */
export async function renameSnapshot(store: VmStore, name: string, from: string, to: string): Promise<void> {
  checkSnapshotName(to);
  const folder = store.folderOf(name);
  await whileVmLocked(folder, async () => {
    recover(folder);
    const record = getSnapshot(store, name, from);
    refuseTaken(folder, name, to);
    // The folder's name is what counts; the record follows it.
    renameSync(snapshotFolder(folder, from), snapshotFolder(folder, to));
    rewrite(folder, { ...record, name: to });
    syncFolder(join(folder, SNAPSHOTS));
    return Promise.resolve();
  });
}

/** @throws SnapshotError (EEXIST) */
export function refuseTaken(folder: string, name: string, snapshot: string): void {
  if (snapshotNames(folder).includes(snapshot))
    throw new SnapshotError(
      'EEXIST',
      `the VM '${name}' has a snapshot '${snapshot}' already`,
      'choose another name, or remove that one (`tsvm snapshot rm`)',
    );
}

/**
 * Removes snapshots; their children become children of their parents. The files that nobody needs any more are gone
 * then, and where the VM does not run, layers that only one file needs are joined with it.
 * @throws SnapshotError (ENOSNAP); StorageError where layers cannot be joined: nothing is lost then
 */
export async function removeSnapshots(
  store: VmStore,
  name: string,
  snapshots: readonly string[],
  progress?: Progress,
): Promise<void> {
  const folder = store.folderOf(name);
  await whileVmLocked(folder, async () => {
    recover(folder);
    const names = snapshotNames(folder);
    // Damaged ones too: this is how one is rid of them.
    for (const each of snapshots)
      if (!names.includes(checkSnapshotName(each))) getSnapshot(store, name, each);
    for (const each of new Set(snapshots)) await removeOne(folder, each);
    await collect(folder, store.status(name).state === 'running', progress && { progress });
  });
}

async function removeOne(folder: string, snapshot: string): Promise<void> {
  const { records } = readAll(folder);
  const record = records.find(({ name }) => name === snapshot);
  if (record !== undefined) {
    for (const child of records.filter(({ parent }) => parent === record.id))
      rewrite(folder, { ...child, parent: record.parent });
    if (currentOf(folder) === record.id) setCurrent(folder, record.parent);
  }
  const gone = join(folder, SNAPSHOTS, `${REMOVED}${snapshot}-${process.pid}`);
  renameSync(snapshotFolder(folder, snapshot), gone);
  syncFolder(join(folder, SNAPSHOTS));
  await rm(gone, { recursive: true, force: true });
}

function rewrite(folder: string, record: SnapshotRecord): void {
  writeFileAtomically(join(snapshotFolder(folder, record.name), RECORD), formatSnapshot(record));
}

/**
 * Removes the layers that nobody reaches, and joins those that are not needed for themselves. Where a snapshot cannot
 * be read, nobody knows what it needs, and all is left as it is. Only for who has the VM locked.
 */
export async function collect(folder: string, isRunning: boolean, options: JoinOptions = {}): Promise<void> {
  const { records, damaged } = readAll(folder);
  if (damaged.length > 0) return;
  const all = [...records, ...suspended(folder)];
  await removeUnreached(folder, all);
  if (!isRunning) await joinUnneeded(folder, all, options);
}

/** Gives back what snapshots have left that were removed while the VM ran. */
export async function tidySnapshots(store: VmStore, name: string): Promise<void> {
  const folder = store.folderOf(name);
  await whileVmLocked(folder, async () => {
    if (store.status(name).state === 'running') return;
    recover(folder);
    await collect(folder, false);
  });
}

/** What the VM is to go on from, where there is such a thing. @throws SnapshotError (EFORMAT) */
export function suspended(folder: string): SnapshotRecord[] {
  try {
    return [readSnapshot(join(folder, RESUME), 'to go on from')];
  } catch (error) {
    if (error instanceof SnapshotError && error.code === 'ENOSNAP') return [];
    throw error;
  }
}
