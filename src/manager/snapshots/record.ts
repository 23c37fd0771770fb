/** `snapshot.json`, which the folder of a snapshot has when it is complete. */
import { createHash } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import * as v from 'valibot';
import { TOUCHED_FILE } from '../../vmm/snapshot/touched.ts';
import { STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import { SNAPSHOTS } from '../vms/files.ts';
import { isVmName } from '../vms/name.ts';
import { SnapshotError } from './errors.ts';

export const RECORD = 'snapshot.json';
/** RAM; one that lies on those of earlier snapshots has these beside it, with numbers */
export const MEMORY = /^memory(\.\d{1,4})?$/;
/** begins the name of a folder that is not complete */
export const STAGING = '.new-';

const RECORD_LIMIT = 1024 * 1024;
const PIECE = 2 ** 20;

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const layerId = v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/));

/** What the manager knows of a snapshot. Of its own version all is known: nothing else may be in it. */
export const snapshotSchema = v.strictObject({
  format: v.literal('tsvm-snapshot'),
  version: v.literal(1),
  id: v.pipe(v.string(), v.uuid()),
  name: v.pipe(v.string(), v.check(isVmName, 'is no name for a snapshot')),
  /** what the VM descended from */
  parent: v.optional(v.pipe(v.string(), v.uuid())),
  created: v.pipe(v.string(), v.isoTimestamp()),
  /** version of tsvm that has taken it */
  tsvm: v.string(),
  /** with what was running, not the disks only */
  memory: v.boolean(),
  /** taken while the guest ran on */
  live: v.boolean(),
  /** the guest's file systems were frozen at that moment */
  quiesced: v.boolean(),
  /** how long the guest stood still, in milliseconds; 0 where it did not run */
  stopMs: v.pipe(v.number(), v.minValue(0)),
  /** of the VM, in bytes */
  ram: count,
  image: v.optional(v.string()),
  /** what each disk that can be written to has: a file beside the VM's disks, see layers.ts */
  disks: v.pipe(
    v.array(v.strictObject({ disk: v.pipe(count, v.maxValue(25)), layer: layerId })),
    v.maxLength(26),
  ),
  /** SHA-256 of {@link STATE_FILE}, where there is one */
  state: v.optional(v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))),
});
export type SnapshotRecord = v.InferOutput<typeof snapshotSchema>;

const head = v.object({ format: v.literal('tsvm-snapshot'), version: v.number() });

export const snapshotFolder = (folder: string, name: string): string => join(folder, SNAPSHOTS, name);

/**
 * @param folder of the snapshot
 * @throws SnapshotError: ENOSNAP where there is none, EFORMAT where it is damaged or newer than this tsvm
 */
export function readSnapshot(folder: string, label: string): SnapshotRecord {
  let text: string;
  try {
    text = readBounded(join(folder, RECORD));
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR')
      throw new SnapshotError('ENOSNAP', `there is no snapshot ${label}`, '`tsvm snapshot ls` shows all');
    throw damaged(label, error instanceof Error ? error.message : String(error));
  }
  return parseSnapshot(text, label);
}

/** @throws SnapshotError (EFORMAT) */
export function parseSnapshot(text: string, label: string): SnapshotRecord {
  const json = v.safeParse(v.pipe(v.string(), v.parseJson()), text);
  if (!json.success) throw damaged(label, `${RECORD} is not JSON`);
  const known = v.safeParse(head, json.output);
  if (!known.success) throw damaged(label, `${RECORD} is not that of a snapshot`);
  if (known.output.version !== 1)
    throw new SnapshotError(
      'EFORMAT',
      `the snapshot ${label} has version ${known.output.version} of the format, and this tsvm knows version 1`,
      'use the tsvm that has taken it',
    );
  const result = v.safeParse(snapshotSchema, json.output);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw damaged(label, `${RECORD}: '${v.getDotPath(issue) ?? ''}': ${issue.message}`);
}

const damaged = (label: string, why: string): SnapshotError =>
  new SnapshotError('EFORMAT', `the snapshot ${label} is damaged: ${why}`, '`tsvm snapshot rm` removes it');

/** Into a folder that has no record yet; on stable storage then. */
export function writeSnapshot(folder: string, record: SnapshotRecord): void {
  const fd = openSync(join(folder, RECORD), 'wx', 0o600);
  try {
    writeSync(fd, formatSnapshot(record));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

export const formatSnapshot = (record: SnapshotRecord): string => `${JSON.stringify(record, undefined, 2)}\n`;

/** Names of the files of the VMM in the folder of a snapshot. */
export const machineFiles = (folder: string): string[] =>
  readdirSync(folder).filter((name) => name === STATE_FILE || name === TOUCHED_FILE || MEMORY.test(name));

/** SHA-256 of a file, in hexadecimal. */
export function digestOf(path: string): string {
  const hash = createHash('sha256');
  const fd = openSync(path, 'r');
  try {
    const piece = Buffer.alloc(PIECE);
    for (let length = readSync(fd, piece); length > 0; length = readSync(fd, piece))
      hash.update(piece.subarray(0, length));
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}

/** Names of complete snapshots and damaged ones, in a VM's folder. */
export function snapshotNames(folder: string): string[] {
  try {
    return readdirSync(join(folder, SNAPSHOTS), { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && isVmName(entry.name))
      .map(({ name }) => name)
      .sort();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}

function readBounded(path: string): string {
  const text = readFileSync(path, 'utf8');
  if (text.length > RECORD_LIMIT) throw new Error(`${RECORD} is too large`);
  return text;
}
