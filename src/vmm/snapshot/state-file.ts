/**
 * `state.json`: a machine without its memory.
 *
 *     { "format": "tsvm-snapshot", "version": 1, "checksum": "SHA-256 of the text of machine", "machine": { … } }
 *
 * The text of `machine` is that of JSON.stringify, so that reading and writing it again gives the same. A reader takes
 * the versions that it knows, and no part that it does not know.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { systemCode } from '../../kvm/system-code.ts';
import * as v from 'valibot';
import { DeviceStateError, forPerson, unsigned } from '../../kvm/device-state.ts';
import { MAX_VCPUS } from '../../boot/layout.ts';
import { checkBoardState, type BoardState, type EncodedBoardState } from '../../machine/board-state.ts';
import { SnapshotError } from './error.ts';

export const STATE_FILE = 'state.json';
export const FORMAT = 'tsvm-snapshot';
export const VERSION = 1;

/** of a file, in bytes: the states of 32 vCPUs take two MiB */
const LARGEST = 64 * 2 ** 20;
const PAGE = 4096;
const MOST_LAYERS = 64;
const MOST_EXTENTS = 2 ** 16;

const page = v.pipe(v.number(), v.safeInteger(), v.minValue(0), v.multipleOf(PAGE, 'not whole pages'));
const text = v.pipe(v.string(), v.maxLength(4096));

const layer = v.strictObject({
  /** beside this one */
  file: v.pipe(v.string(), v.regex(/^memory(?:\.\d{1,4})?$/, 'not a memory file of a snapshot')),
  /** pairs of offset and length that are of this file, in their order; absent: all are */
  extents: v.optional(v.pipe(v.array(v.strictTuple([page, page])), v.maxLength(MOST_EXTENTS))),
});

const schema = v.strictObject({
  /** in milliseconds since 1970 */
  created: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  /** version that has written it */
  tsvm: text,
  uuid: v.pipe(v.string(), v.uuid()),
  cpus: v.pipe(unsigned(MAX_VCPUS), v.minValue(1)),
  transport: v.picklist(['pci', 'mmio', 'mmio-cmdline']),
  /** names of virtio devices, in the order in which the guest has found them */
  devices: v.pipe(v.array(text), v.maxLength(256)),
  memory: v.strictObject({
    /** in bytes */
    size: v.pipe(page, v.minValue(PAGE)),
    /** files that lie over each other, the lowest first */
    layers: v.pipe(v.array(layer), v.minLength(1), v.maxLength(MOST_LAYERS)),
  }),
  board: v.unknown(),
});

export type MemoryLayer = v.InferOutput<typeof layer>;
type Machine = v.InferOutput<typeof schema>;
export type MachineState = Omit<Machine, 'board'> & { readonly board: BoardState };
export type EncodedMachineState = Omit<Machine, 'board'> & { readonly board: EncodedBoardState };

const envelope = v.strictObject({
  format: v.literal(FORMAT),
  version: v.number(),
  checksum: v.string(),
  machine: v.unknown(),
});

const checksumOf = (machine: string): string => createHash('sha256').update(machine).digest('hex');

/** The file's text. */
export function formatState(state: EncodedMachineState): string {
  const machine = JSON.stringify(state);
  const head = JSON.stringify({ format: FORMAT, version: VERSION, checksum: checksumOf(machine) });
  return `${head.slice(0, -1)},"machine":${machine}}\n`;
}

/** @throws SnapshotError: EFOREIGN, EVERSION, EDAMAGED */
export function parseState(content: string, path: string): MachineState {
  const fail = (code: string, message: string, hint?: string): never => {
    throw new SnapshotError(path, code, message, hint);
  };
  let json: unknown;
  try {
    json = JSON.parse(content);
  } catch {
    fail('EDAMAGED', 'is cut short, or not the state of a snapshot');
  }
  if (!v.is(v.looseObject({ format: v.literal(FORMAT), version: v.number() }), json))
    return fail('EFOREIGN', 'is not the state of a snapshot of tsvm');
  if (json.version > VERSION)
    fail(
      'EVERSION',
      `is of a newer tsvm (version ${json.version}; this one reads up to ${VERSION})`,
      'use that tsvm',
    );
  const whole = v.safeParse(envelope, json);
  if (!whole.success) return fail('EDAMAGED', 'lacks parts, or has some that nobody knows');
  const { version, checksum, machine } = whole.output;
  if (version !== VERSION) fail('EDAMAGED', `has the version ${version}, which there never was`);
  if (checksumOf(JSON.stringify(machine)) !== checksum) fail('EDAMAGED', 'is damaged: its checksum is wrong');
  const result = v.safeParse(schema, machine, { abortEarly: true });
  if (!result.success) {
    const [issue] = result.issues;
    return fail('EDAMAGED', `${forPerson(v.getDotPath(issue) ?? 'machine')}: ${forPerson(issue.message)}`);
  }
  const state = result.output;
  checkLayers(state.memory, (message) => fail('EDAMAGED', message));
  try {
    const board = checkBoardState(state.board);
    if (board.vcpus.length !== state.cpus)
      fail('EDAMAGED', `has ${board.vcpus.length} vCPUs instead of ${state.cpus}`);
    return { ...state, board };
  } catch (error) {
    if (error instanceof DeviceStateError) return fail('EDAMAGED', error.message);
    throw error;
  }
}

/** @throws SnapshotError: as {@link parseState}, or the code of a system call */
export function readState(path: string): MachineState {
  let content: string;
  try {
    const bytes = readFileSync(path);
    if (bytes.length > LARGEST)
      throw new SnapshotError(path, 'EFOREIGN', 'is too large for the state of a snapshot');
    content = bytes.toString('utf8');
  } catch (error) {
    if (error instanceof SnapshotError) throw error;
    const code = systemCode(error) ?? 'EIO';
    throw new SnapshotError(path, code, code === 'ENOENT' ? 'is not there' : `cannot be read: ${code}`);
  }
  return parseState(content, path);
}

/** The lowest is of all of memory; in those above, extents follow each other and lie inside. */
function checkLayers({ size, layers }: Machine['memory'], fail: (message: string) => never): void {
  const names = new Set(layers.map(({ file }) => file));
  if (names.size !== layers.length) fail('memory.layers: one file twice');
  layers.forEach(({ file, extents }, index) => {
    if ((extents === undefined) !== (index === 0)) fail(`memory.layers.${index}: ${file} in a wrong place`);
    let end = 0;
    for (const [offset, length] of extents ?? []) {
      if (offset < end || length === 0 || length > size - offset)
        fail(`memory.layers.${index}: extents that cannot be`);
      end = offset + length;
    }
  });
}
