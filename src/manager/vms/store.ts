import { closeSync, existsSync, mkdirSync, openSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { closest, distance } from 'fastest-levenshtein';
import { systemCode } from '../../kvm/system-code.ts';
import { findLock } from '../../kvm/host-file.ts';
import { findHolder } from '../../storage/lock-holder.ts';
import { syncFolder } from '../../storage/sync-folder.ts';
import { STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import { writeFileAtomically } from '../atomic-file.ts';
import type { EventJournal } from '../events.ts';
import { PROCESS_LOCK, readRecord, type ProcessRecord } from '../vmm/record.ts';
import { RESUME, VM_INI } from './files.ts';
import { checkVmName } from './name.ts';
import { HIDDEN, hiddenFolder, isAbandoned } from './owner.ts';
import type { VmSettings } from './settings.ts';
import { formatVmIni, parseVmIni, readVmIni } from './vm-ini.ts';

/** A VM cannot be found, made or changed. */
export class VmStoreError extends Error {
  override readonly name = 'VmStoreError';
  /** ENOVM, EEXIST, ERUNNING, ESTOPPED, … */
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, hint?: string) {
    super(message);
    this.code = code;
    this.hint = hint;
  }
}

export type VmStatus = {
  /** `suspended`: it goes on from where it was at its next start; `crashed`: its process is gone and has not said why, or the guest or KVM could not go on */
  readonly state: 'running' | 'stopped' | 'suspended' | 'crashed';
  readonly record: ProcessRecord | undefined;
};

/** reasons of an end that nobody asked for */
export const CRASHES: ReadonlySet<string> = new Set(['panic', 'triple-fault', 'error']);
/** where a lock of a file in use may be */
const LOCK_BYTES = 1024;

/** VMs as folders of one directory, each with all that is its own. */
export class VmStore {
  readonly events: EventJournal | undefined;
  readonly #folder: string;

  /** @param folder made where it is not there; for its owner only @param events is told what happens */
  constructor(folder: string, events?: EventJournal) {
    this.#folder = folder;
    this.events = events;
  }

  /** Names of all VMs, sorted. */
  names(): string[] {
    if (!existsSync(this.#folder)) return [];
    return readdirSync(this.#folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && !entry.name.startsWith(HIDDEN))
      .map(({ name }) => name)
      .filter((name) => existsSync(join(this.#folder, name, VM_INI)))
      .sort();
  }

  /** @throws VmNameError, VmStoreError (ENOVM) with the name that may be meant */
  folderOf(name: string): string {
    checkVmName(name);
    const folder = join(this.#folder, name);
    if (existsSync(join(folder, VM_INI))) return folder;
    const names = this.names();
    const near = names.length === 0 ? undefined : closest(name, names);
    const meant = near !== undefined && distance(name, near) <= 2 ? `did you mean '${near}'?` : undefined;
    throw new VmStoreError(
      'ENOVM',
      `there is no VM '${name}'`,
      meant ?? '`tsvm list` shows all, `tsvm create` makes one',
    );
  }

  /** @throws IniError */
  settings(name: string): VmSettings {
    return readVmIni(join(this.folderOf(name), VM_INI));
  }

  writeSettings(name: string, settings: VmSettings): void {
    writeFileAtomically(join(this.folderOf(name), VM_INI), checkedIni(settings, name));
    this.events?.add(name, 'set');
  }

  status(name: string): VmStatus {
    const folder = this.folderOf(name);
    const running = isLocked(join(folder, PROCESS_LOCK));
    // Read after that: a process says how it has ended before it lets go of its lock.
    const record = readRecord(folder);
    if (running) return { state: 'running', record };
    if (existsSync(join(folder, RESUME, STATE_FILE))) return { state: 'suspended', record };
    if (record === undefined) return { state: 'stopped', record };
    const crashed = record.end === undefined || CRASHES.has(record.end.reason);
    return { state: crashed ? 'crashed' : 'stopped', record };
  }

  /**
   * Makes a VM: all of it is there, or nothing.
   * @param fill makes its files in the folder that it is given, and says what the settings are; their paths may be
   * relative to the folder
   */
  async create(name: string, fill: (folder: string) => Promise<VmSettings>): Promise<void> {
    checkVmName(name);
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const folder = join(this.#folder, name);
    // The name of one that nobody has any more is free.
    await this.sweep();
    this.#checkFree(name);
    const staging = this.#hidden('new', name);
    mkdirSync(staging, { mode: 0o700 });
    try {
      const settings = await fill(staging);
      writeFileSync(join(staging, VM_INI), checkedIni(settings, name), { mode: 0o600, flush: true });
      this.#checkFree(name);
      // Where somebody else was faster, a folder that has something in it is in the way.
      renameSync(staging, folder);
      syncFolder(this.#folder);
      this.events?.add(name, 'created', settings.vm.image);
    } catch (error) {
      await rm(staging, { recursive: true, force: true });
      if (['ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) this.#checkFree(name);
      throw error;
    }
  }

  /** Removes a VM that does not run. @throws VmStoreError (ERUNNING) */
  async delete(name: string): Promise<void> {
    const folder = this.folderOf(name);
    if (this.status(name).state === 'running')
      throw new VmStoreError(
        'ERUNNING',
        `the VM '${name}' is running`,
        `stop it first (\`tsvm stop ${name}\`), or --force`,
      );
    await this.sweep();
    const gone = this.#hidden('old', name);
    renameSync(folder, gone);
    this.events?.add(name, 'deleted');
    await rm(gone, { recursive: true, force: true });
  }

  /** @throws VmStoreError (EEXIST, ERUNNING) */
  rename(name: string, to: string): void {
    const folder = this.folderOf(name);
    checkVmName(to);
    this.#checkFree(to);
    if (this.status(name).state === 'running')
      throw new VmStoreError(
        'ERUNNING',
        `the VM '${name}' is running`,
        `stop it first (\`tsvm stop ${name}\`)`,
      );
    renameSync(folder, join(this.#folder, to));
    this.events?.add(name, 'renamed', to);
    syncFolder(this.#folder);
  }

  #hidden(what: 'new' | 'old', name: string): string {
    return hiddenFolder(this.#folder, what, name);
  }

  /** Removes what processes that were killed have left: half made, half removed, or theirs alone. */
  async sweep(): Promise<void> {
    if (!existsSync(this.#folder)) return;
    for (const name of this.names()) {
      const folder = join(this.#folder, name);
      // One that runs is about to notice, and to end by itself.
      if (!isAbandoned(folder) || isLocked(join(folder, PROCESS_LOCK))) continue;
      const gone = this.#hidden('old', name);
      try {
        renameSync(folder, gone);
      } catch {
        // Somebody else was faster.
        continue;
      }
      this.events?.add(name, 'deleted');
      await rm(gone, { recursive: true, force: true });
    }
    for (const entry of readdirSync(this.#folder)) {
      const pid = /^\.(?:new|old)-.*-(\d+)$/.exec(entry)?.[1];
      if (pid !== undefined && !existsSync(`/proc/${pid}`))
        await rm(join(this.#folder, entry), { recursive: true, force: true });
    }
  }

  #checkFree(name: string): void {
    if (existsSync(join(this.#folder, name)))
      throw new VmStoreError(
        'EEXIST',
        `there is a VM '${name}' already`,
        'choose another name, or delete that one',
      );
  }
}

/** What is written is read again as it was. @throws IniError, VmStoreError */
function checkedIni(settings: VmSettings, name: string): string {
  const text = formatVmIni(settings, name);
  const read: unknown = parseVmIni(text, VM_INI);
  const plain: unknown = JSON.parse(JSON.stringify(settings));
  if (!isDeepStrictEqual(read, plain))
    throw new VmStoreError(
      'EINI',
      `the settings have a text that ${VM_INI} cannot hold`,
      'a backslash before ; or # is one',
    );
  return text;
}

/** The process that runs a VM, by the lock that it has; undefined where there is none that this user may see. */
export function processOf(folder: string): number | undefined {
  const fd = openSync(join(folder, PROCESS_LOCK), 'r');
  try {
    const lock = findLock(fd, 0, LOCK_BYTES);
    return lock && findHolder(fd, lock.start);
  } finally {
    closeSync(fd);
  }
}

function isLocked(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return false;
  }
  try {
    return findLock(fd, 0, LOCK_BYTES) !== undefined;
  } finally {
    closeSync(fd);
  }
}
