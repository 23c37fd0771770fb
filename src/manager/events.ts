/** What has happened to the VMs of a data directory: a journal that each process of it adds a line to. */
import {
  closeSync,
  copyFileSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import * as v from 'valibot';
import { sleep } from './sleep.ts';

const event = v.object({
  /** milliseconds since 1970 */
  time: v.number(),
  /** of the VM */
  name: v.string(),
  event: v.picklist([
    'created',
    'started',
    'agent',
    'paused',
    'resumed',
    'stopped',
    'crashed',
    'killed',
    'set',
    'renamed',
    'snapshot',
    'restored',
    'deleted',
  ]),
  /** why, or to what; for people */
  detail: v.optional(v.string()),
});
export type VmEvent = v.InferOutput<typeof event>;
export type VmEventKind = VmEvent['event'];

const line = v.pipe(v.string(), v.parseJson(), event);

const FILE = 'events.jsonl';
/** of the journal, and of what it was before, each in bytes */
const LIMIT = 2 ** 20;
const DETAIL_LIMIT = 1000;
const POLL_MS = 200;
const PIECE = 65_536;

/** The journal of the data directory that a VM's folder is in. */
export const journalBeside = (vmFolder: string): EventJournal => new EventJournal(dirname(dirname(vmFolder)));

/** Adds events. Its file stays open, so that a process can tell its end from a jail. */
export class EventJournal {
  readonly #path: string;
  readonly #limit: number;
  #fd: number | undefined;

  /** @param root the data directory @param limit for tests: of the file, in bytes */
  constructor(root: string, limit = LIMIT) {
    this.#path = join(root, FILE);
    this.#limit = limit;
  }

  /** Makes the file where it is not there. What fails here fails nothing else: no command is worth less without it. */
  open(): void {
    try {
      this.#fd ??= openSync(this.#path, 'a', 0o600);
    } catch {
      // Tried again with the next event.
    }
  }

  add(name: string, kind: VmEventKind, detail?: string): void {
    const entry: VmEvent = {
      time: Date.now(),
      name,
      event: kind,
      ...(detail !== undefined && { detail: detail.slice(0, DETAIL_LIMIT) }),
    };
    try {
      this.open();
      if (this.#fd === undefined) return;
      // One write to a file that is open for appending is all there, and nobody else's is within it.
      writeSync(this.#fd, `${JSON.stringify(entry)}\n`);
      if (fstatSync(this.#fd).size > this.#limit) this.#turn();
    } catch {
      // A full disk, or a file of somebody else's.
    }
  }

  /** The file goes on as the same one, for all who have it open, from its beginning. */
  #turn(): void {
    const temporary = `${this.#path}.${process.pid}.part`;
    copyFileSync(this.#path, temporary);
    renameSync(temporary, `${this.#path}.1`);
    const fd = openSync(this.#path, 'r+');
    try {
      ftruncateSync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

export type EventFilter = {
  /** default: of all VMs */
  readonly name?: string;
  /** milliseconds since 1970; default: all that is kept */
  readonly since?: number;
  /** goes on with what comes; default false */
  readonly follow?: boolean;
  /** ends that */
  readonly signal?: AbortSignal;
};

/** Events of a data directory, in their order. Lines that make no sense are left out. */
export async function* readEvents(root: string, filter: EventFilter = {}): AsyncGenerator<VmEvent> {
  const { name, since = 0, follow = false, signal } = filter;
  const path = join(root, FILE);
  const isWanted = (each: VmEvent): boolean =>
    each.time >= since && (name === undefined || each.name === name);
  if (existsSync(`${path}.1`)) yield* eventsIn(readFileSync(`${path}.1`, 'utf8')).filter(isWanted);
  const tail = new Tail(path);
  for (;;) {
    yield* eventsIn(tail.lines()).filter(isWanted);
    if (!follow || signal?.aborted === true) return;
    await sleep(POLL_MS, signal);
  }
}

function eventsIn(text: string): VmEvent[] {
  return text.split('\n').flatMap((each) => {
    const result = v.safeParse(line, each);
    return result.success ? [result.output] : [];
  });
}

/** Whole lines of a file that grows, or begins anew. */
class Tail {
  readonly #path: string;
  #at = 0;
  #rest = '';

  constructor(path: string) {
    this.#path = path;
  }

  lines(): string {
    const size = statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0;
    if (size < this.#at) {
      this.#at = 0;
      this.#rest = '';
    }
    if (size === this.#at) return '';
    const text = this.#rest + this.#read();
    const end = text.lastIndexOf('\n') + 1;
    this.#rest = text.slice(end);
    return text.slice(0, end);
  }

  #read(): string {
    const fd = openSync(this.#path, 'r');
    try {
      const pieces: Buffer[] = [];
      for (;;) {
        const piece = Buffer.alloc(PIECE);
        const count = readSync(fd, piece, 0, PIECE, this.#at);
        if (count === 0) return Buffer.concat(pieces).toString('utf8');
        this.#at += count;
        pieces.push(piece.subarray(0, count));
      }
    } finally {
      closeSync(fd);
    }
  }
}
