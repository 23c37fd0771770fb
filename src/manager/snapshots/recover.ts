/**
 * A VM goes back to a snapshot in three steps: all that it is to have is made beside what it has, under other names;
 * a file says that this is so; and all of it gets its name. A command that is killed before the file is there has done
 * nothing, and one that is killed after it is finished by the next.
 */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import * as v from 'valibot';
import { syncFolder } from '../../storage/sync-folder.ts';
import { writeFileAtomically } from '../atomic-file.ts';
import { RESUME, SNAPSHOTS } from '../vms/files.ts';
import { STAGING } from './record.ts';

/** begins the names of what is to come */
const COMING = '.coming-';
const PLAN = '.restoring';
const CURRENT = '.current';
/** begins the name of a folder that is being removed */
export const REMOVED = '.old-';

const plan = v.strictObject({
  /** names in the VM's folder that get what was made for them */
  names: v.array(v.pipe(v.string(), v.regex(/^[^/.][^/]*$/))),
  /** the snapshot that the VM descends from then */
  current: v.pipe(v.string(), v.uuid()),
});

/** Where that is made which is to have this name in a VM's folder. */
export const comingPath = (folder: string, name: string): string => join(folder, COMING + name);

/** Gives all that was made its name. A state to go on from that was there and does not come anew is gone then. */
export function switchOver(folder: string, names: readonly string[], current: string): void {
  syncFolder(folder);
  writeFileAtomically(join(folder, SNAPSHOTS, PLAN), `${JSON.stringify({ names, current })}\n`);
  finish(folder, { names: [...names], current });
}

function finish(folder: string, { names, current }: v.InferOutput<typeof plan>): void {
  for (const name of [...names, RESUME]) {
    const coming = comingPath(folder, name);
    const path = join(folder, name);
    if (name === RESUME && (existsSync(coming) || !names.includes(RESUME)))
      rmSync(path, { recursive: true, force: true });
    if (existsSync(coming)) renameSync(coming, path);
  }
  setCurrent(folder, current);
  syncFolder(folder);
  rmSync(join(folder, SNAPSHOTS, PLAN));
  syncFolder(join(folder, SNAPSHOTS));
}

/**
 * Sees to what commands have left that were killed: what they had to finish is finished, and what they had only begun
 * is removed. Only for who has the VM locked.
 */
export function recover(folder: string): void {
  const path = join(folder, SNAPSHOTS, PLAN);
  if (existsSync(path))
    finish(folder, v.parse(v.pipe(v.string(), v.parseJson(), plan), readFileSync(path, 'utf8')));
  for (const name of readdirSync(folder)) {
    const pid = /\.(\d+)\.part$/.exec(name)?.[1];
    const isAbandoned = pid !== undefined && !existsSync(`/proc/${pid}`);
    if (isAbandoned || name.startsWith(COMING)) rmSync(join(folder, name), { recursive: true, force: true });
  }
  for (const name of namesIn(join(folder, SNAPSHOTS)))
    if (name.startsWith(STAGING) || name.startsWith(REMOVED))
      rmSync(join(folder, SNAPSHOTS, name), { recursive: true, force: true });
}

/** Identifier of the snapshot that a VM descends from. */
export function currentOf(folder: string): string | undefined {
  try {
    return readFileSync(join(folder, SNAPSHOTS, CURRENT), 'utf8').trim();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

export function setCurrent(folder: string, id: string | undefined): void {
  const path = join(folder, SNAPSHOTS, CURRENT);
  if (id === undefined) rmSync(path, { force: true });
  else writeFileAtomically(path, `${id}\n`);
}

/** Removes what a VM was to go on from: it boots at its next start. @returns whether there was any */
export function discardSuspended(folder: string): boolean {
  const gone = comingPath(folder, 'discarded');
  try {
    renameSync(join(folder, RESUME), gone);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
  rmSync(gone, { recursive: true });
  return true;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}
