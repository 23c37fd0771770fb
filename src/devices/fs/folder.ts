import { closeSync } from 'node:fs';
import { KvmError } from '../../kvm/errors.ts';
import { FILE, FILE_RESULT_AT, FileCalls } from '../../kvm/file-calls.ts';
import { Owners, type OwnerOptions } from './owners.ts';
import type { Timeouts } from './reply.ts';

/**
 * How long the guest's kernel trusts what it knows of files.
 * - `none`: never; no page cache either
 * - `auto`: a second for names and attributes; contents as long as the file has not changed when it is opened
 * - `always`: for good, and it writes back late: where nobody but this guest writes
 */
export type FsCache = 'none' | 'auto' | 'always';

export type FolderOptions = OwnerOptions & {
  /** of a directory of the host */
  readonly path: string;
  /** default false */
  readonly readOnly?: boolean;
  /** default `auto` */
  readonly cache?: FsCache;
  /** shared with other folders of the process; default one of its own */
  readonly budget?: FileBudget;
};

/** Files that the shared folders of a process may have open at a time: each that a guest knows is one. */
export class FileBudget {
  /** set once it is known */
  limit: number | undefined;
  readonly #users = new Set<() => number>();

  /** @param limit default: what the process may open, but for some for its other parts */
  constructor(limit?: number) {
    this.limit = limit;
  }

  /** @param count how many files of it somebody has open. Returns what takes that back. */
  add(count: () => number): () => void {
    this.#users.add(count);
    return () => this.#users.delete(count);
  }

  get exhausted(): boolean {
    let used = 0;
    for (const count of this.#users) used += count();
    return used >= (this.limit ?? 0);
  }
}

const TIMEOUTS: Readonly<Record<FsCache, Timeouts>> = {
  none: { entry: 0, attributes: 0, negative: 0 },
  // Not for names that are not there: somebody waits for one to appear.
  auto: { entry: 1, attributes: 1, negative: 0 },
  always: { entry: 86_400, attributes: 86_400, negative: 86_400 },
};

/** Files of the process that shares have no part in: disks, sockets, vCPUs. */
const OTHER_FILES = 256;
const LEAST_FILES = 64;
/** where the addon's answer has the type of a file system, in words */
const TYPE_AT = 16;

/** Kinds of file systems (statfs(2)) that answer when some other machine or program does. */
const SLOW: ReadonlySet<number> = new Set([
  0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f, 0x7375_7245,
  0x0bd0_0bd0, 0x786f_4256, 0x7461_636f,
]);
/** Kinds whose files are the kernel's: proc, sysfs. */
const KERNELS: ReadonlySet<number> = new Set([0x9fa0, 0x6265_6572]);

/** A folder that cannot be shared. */
export class ShareError extends Error {
  override readonly name = 'ShareError';
  readonly code: string;
  readonly path: string;

  constructor(path: string, code: string, reason: string, options?: ErrorOptions) {
    super(`cannot share ${path}: ${reason}`, options);
    this.path = path;
    this.code = code;
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such folder',
  ENOTDIR: 'it is not a folder',
  EACCES: 'permission denied',
  ENOSYS: "the host's kernel has no openat2: shared folders need Linux 5.6 or newer",
};

/** A folder of the host, open for as long as VMs may use it. */
export class SharedFolder {
  readonly path: string;
  /** O_PATH; whatever becomes of its path */
  readonly fd: number;
  readonly readOnly: boolean;
  readonly cache: FsCache;
  readonly owners: Owners;
  readonly timeouts: Timeouts;
  /** calls may wait for another machine or program */
  readonly slow: boolean;
  /** the process may do what its user may not */
  readonly privileged: boolean;
  readonly budget: FileBudget;

  /** @throws ShareError */
  constructor(options: FolderOptions) {
    const { path, readOnly = false, cache = 'auto', budget = new FileBudget() } = options;
    const identity = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
    this.path = path;
    this.readOnly = readOnly;
    this.cache = cache;
    this.budget = budget;
    this.owners = new Owners(options, identity);
    this.timeouts = TIMEOUTS[cache];
    this.privileged = identity.uid === 0;
    const calls = new FileCalls(1);
    try {
      const call = calls.calls[0]!;
      this.fd = calls.openFolder(call, path);
      call.prepare(FILE.fileSystem, this.fd);
      const known = call.run() > 0;
      const type = known ? call.dataWords[FILE_RESULT_AT / 4 + TYPE_AT]! : 0;
      this.slow = SLOW.has(type);
      budget.limit ??= Math.max(LEAST_FILES, calls.fileLimit - OTHER_FILES);
      if (KERNELS.has(type)) {
        closeSync(this.fd);
        throw new ShareError(path, 'EINVAL', "what is in it are not files but the host's kernel");
      }
    } catch (error) {
      if (!(error instanceof KvmError)) throw error;
      throw new ShareError(path, error.code, REASONS[error.code] ?? error.message, { cause: error });
    } finally {
      calls.close();
    }
  }

  close(): void {
    closeSync(this.fd);
  }
}
