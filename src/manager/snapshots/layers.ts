/**
 * Layers: what a disk had when a snapshot was taken, a qcow2 file beside the disk that is never written to again. The
 * disk lies on the newest of them, and that on older ones. A layer is used by snapshots, by disks, and by the layers
 * above it; another VM's folder may have the same file by a hard link, and neither knows of the other.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { looksLikeQcow2 } from '../../storage/open.ts';
import { syncFolder } from '../../storage/sync-folder.ts';
import { diskInfo, joinLayers, type Progress } from '../../storage/tools.ts';
import { layerFile } from '../vms/files.ts';
import type { DiskSettings, VmSettings } from '../vms/settings.ts';
import { SnapshotError } from './errors.ts';
import type { SnapshotRecord } from './record.ts';

const LAYER = /^layer-[0-9a-f]{16}\.qcow2$/;
/** of a file that is never written to again */
const FROZEN_MODE = 0o400;

export const isLayer = (file: string): boolean => LAYER.test(file);
export const newLayerId = (): string => randomBytes(8).toString('hex');

/** A disk that a snapshot has to keep, by its place in the settings. */
export type WritableDisk = { readonly disk: number; readonly file: string };

/** @throws SnapshotError (EDISK) where one cannot be had in a snapshot */
export function writableDisks(name: string, { disks }: Pick<VmSettings, 'disks'>): WritableDisk[] {
  return disks.flatMap((each, disk) => {
    if (each.readOnly) return [];
    refuseOthers(name, each);
    return [{ disk, file: each.file }];
  });
}

function refuseOthers(name: string, { file, format }: DiskSettings): void {
  const refuse = (why: string, hint: string): SnapshotError =>
    new SnapshotError('EDISK', `the VM '${name}' has a disk that no snapshot can have: ${file} ${why}`, hint);
  const readOnly = 'or give it `read-only = yes` in vm.ini';
  if (format !== 'qcow2')
    throw refuse(
      'is a raw disk',
      `stop the VM, make it qcow2 (\`tsvm disk convert --output-format qcow2\`), and name that in vm.ini; ${readOnly}`,
    );
  if (!/^[^/.][^/]*$/.test(file))
    throw refuse(
      "is not in the VM's folder",
      `move it there, and name it in vm.ini without its folder; ${readOnly}`,
    );
}

/** Disks and layers of a VM's folder, and which of these each one lies on. */
export class LayerMap {
  readonly folder: string;
  /** by file: the layer right below, where one of this folder is */
  readonly #below: ReadonlyMap<string, string | undefined>;

  static async read(folder: string): Promise<LayerMap> {
    const names = readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isFile() && looksLikeQcow2(join(folder, entry.name)))
      .map(({ name }) => name);
    const below = new Map<string, string | undefined>();
    for (const name of names) {
      const [{ qcow2 }] = await diskInfo({ path: join(folder, name), format: 'qcow2' }, { share: true });
      const backing = qcow2?.backingFile;
      below.set(
        name,
        backing !== undefined && isLayer(backing) && names.includes(backing) ? backing : undefined,
      );
    }
    return new LayerMap(folder, below);
  }

  private constructor(folder: string, below: ReadonlyMap<string, string | undefined>) {
    this.folder = folder;
    this.#below = below;
  }

  get layers(): string[] {
    return [...this.#below.keys()].filter(isLayer);
  }

  /** All disks that are there, also those that the settings do not name at present. */
  get disks(): string[] {
    return [...this.#below.keys()].filter((file) => !isLayer(file));
  }

  /** A file and the layers below it, as far as they are there. */
  chain(file: string): string[] {
    const files: string[] = [];
    for (let next: string | undefined = file; next !== undefined && this.#below.has(next);) {
      // Nobody could open a loop, and nothing here is to go round in one.
      if (files.includes(next)) break;
      files.push(next);
      next = this.#below.get(next);
    }
    return files;
  }

  /** Files that lie right on this one. */
  above(layer: string): string[] {
    return [...this.#below].filter(([, below]) => below === layer).map(([file]) => file);
  }
}

/** Layers that a snapshot's disks are, from the top down. */
export const layersOf = (map: LayerMap, { disks }: Pick<SnapshotRecord, 'disks'>): string[] => [
  ...new Set(disks.flatMap(({ layer }) => map.chain(layerFile(layer)))),
];

/** What a file takes on the file system, in bytes. */
export const allocated = (path: string): number => statSync(path).blocks * 512;

/**
 * Removes layers that nobody reaches any more.
 * @param records of all snapshots of the VM, what it is to go on from among them
 */
export async function removeUnreached(
  folder: string,
  records: readonly Pick<SnapshotRecord, 'disks'>[],
): Promise<void> {
  const map = await LayerMap.read(folder);
  const reached = new Set([
    ...map.disks.flatMap((disk) => map.chain(disk)),
    ...records.flatMap((record) => layersOf(map, record)),
  ]);
  const unreached = map.layers.filter((layer) => !reached.has(layer));
  for (const layer of unreached) rmSync(join(folder, layer));
  if (unreached.length > 0) syncFolder(folder);
}

export type JoinOptions = {
  /** a run of fewer layers than this is left as it is; default 1 */
  readonly least?: number;
  readonly progress?: Progress;
};

/**
 * Joins each layer that is no snapshot's any more, and that only one file lies on, with that one. What other VMs have
 * too is left alone: it would take more space than before. Nobody may use the disks.
 * @throws StorageError; all reads as before then
 */
export async function joinUnneeded(
  folder: string,
  records: readonly Pick<SnapshotRecord, 'disks'>[],
  { least = 1, progress }: JoinOptions = {},
): Promise<void> {
  const tops = new Set(records.flatMap(({ disks }) => disks.map(({ layer }) => layerFile(layer))));
  for (;;) {
    const map = await LayerMap.read(folder);
    const isShared = (file: string): boolean => statSync(join(folder, file)).nlink > 1;
    const isUnneeded = (layer: string): boolean =>
      !tops.has(layer) && map.above(layer).length === 1 && !isShared(layer);
    /** what is to be joined with a file: a run from right below it on */
    const runBelow = (file: string): string[] => {
      const [, ...below] = map.chain(file);
      const end = below.findIndex((layer) => !isUnneeded(layer));
      return end < 0 ? below : below.slice(0, end);
    };
    // From the upper end of a run of them: what is copied is copied once.
    const upper = [...map.disks, ...map.layers].find(
      (file) => !isShared(file) && !(isLayer(file) && isUnneeded(file)) && runBelow(file).length >= least,
    );
    if (upper === undefined) return;
    await joinRun(folder, upper, runBelow(upper), progress);
  }
}

async function joinRun(
  folder: string,
  upper: string,
  run: readonly string[],
  progress: Progress | undefined,
): Promise<void> {
  const path = join(folder, upper);
  const target = `${path}.${process.pid}.part`;
  rmSync(target, { force: true });
  await joinLayers(path, run.length, target, { trusted: true }, progress);
  chmodSync(target, isLayer(upper) ? FROZEN_MODE : 0o600);
  renameSync(target, path);
  syncFolder(folder);
  // Where this ends here, nobody reaches them.
  for (const layer of run) rmSync(join(folder, layer));
}
