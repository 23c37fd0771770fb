import { constants } from 'node:os';
import { DISK_OPERATION, type DiskRequest } from '../../storage/disk.ts';

const NAMES = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));

const OPERATIONS = ['read', 'write', 'flush', 'discard', 'write-zeroes'] as const;

const HINTS: Readonly<Record<string, string>> = {
  ENOSPC: 'free space on the host',
  EDQUOT: "raise the user's quota, or free space, on the host",
  EFBIG: 'the file system or `ulimit -f` allows no larger file',
  EIO: "the host's storage fails: its kernel log tells more",
};

/** The same error of the same operation is told again after this time. */
const QUIET_MS = 10_000;

/** Lines for the log about requests that the host has failed: one for many of a kind. */
export class ErrorLog {
  readonly #path: string;
  readonly #log: (line: string) => void;
  readonly #clock: () => number;
  readonly #told = new Map<string, { at: number; since: number }>();

  constructor(path: string, log: (line: string) => void, clock: () => number = () => performance.now()) {
    this.#path = path;
    this.#log = log;
    this.#clock = clock;
  }

  /** @param error the host's errno */
  failed({ operation, offset, length }: DiskRequest, error: number): void {
    const code = NAMES.get(error) ?? `error ${error}`;
    const name = OPERATIONS[operation];
    const key = `${name} ${code}`;
    const now = this.#clock();
    const told = this.#told.get(key);
    if (told !== undefined && now - told.at < QUIET_MS) {
      told.since++;
      return;
    }
    this.#told.set(key, { at: now, since: 0 });
    const what =
      operation === DISK_OPERATION.flush ? name : `${name} of ${length} bytes at 0x${offset.toString(16)}`;
    const more = told !== undefined && told.since > 0 ? ` (and ${told.since} times before)` : '';
    const hint = HINTS[code];
    this.#log(`${this.#path}: ${what} failed: ${code}${more}${hint === undefined ? '' : `; ${hint}`}`);
  }
}
