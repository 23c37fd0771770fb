import { randomBytes } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import {
  copyIn,
  copyOut,
  readGuestFile,
  writeGuestFile,
  type CopyGuest,
  type CopyOptions,
  type CopyResult,
} from '../copy/copy.ts';
import { EventJournal, readEvents, type EventFilter, type VmEvent } from '../events.ts';
import { managerPaths, privateFolder, type ManagerPaths } from '../paths.ts';
import { cloneVm } from '../snapshots/clone.ts';
import { createSnapshot, type CreateSnapshotOptions, type TakenSnapshot } from '../snapshots/create.ts';
import { restoreSnapshot, type RestoreOptions } from '../snapshots/restore.ts';
import { listSnapshots, removeSnapshots, type SnapshotInfo } from '../snapshots/store.ts';
import { suspendVm } from '../snapshots/suspend.ts';
import { createRunVm, isSpoilt, keepBooted } from '../warm/run.ts';
import { changeVm, type VmChange } from './change.ts';
import { createTemporaryVm, createVm, type NewVm } from './create.ts';
import { onImage } from './image-base.ts';
import { VmExec, type VmExecOptions, type VmExecResult } from './exec.ts';
import { killVm, startVmProcess, stopVm, VmConnection, type StopOptions } from './lifecycle.ts';
import type { ScreenSize, VmScreen } from './screen.ts';
import { VmSerial } from './serial.ts';
import type { VmSettings } from './settings.ts';
import { VmStore, type VmStatus } from './store.ts';
import { consoleBytes, waitFor, type WaitOptions, type WaitTarget } from './wait.ts';

export type VmHomeOptions = {
  /** the data directory; default: that of the command line */
  readonly home?: string;
};

/** What a VM's disk is laid over: an image of the catalogue or the store by its name, or a disk of the caller's. */
export type VmBase = Pick<NewVm, 'disk' | 'image'> | { readonly image: string; readonly disk?: undefined };

export type CreateVmOptions = Omit<NewVm, 'disk' | 'image'> &
  VmBase &
  VmHomeOptions & {
    /**
     * it is deleted, running or not, when it is disposed of, and when this process ends, however that comes; default
     * false
     */
    readonly temporary?: boolean;
  };

/** A VM for one command: as to {@link Vm.create}, with a name of its own unless it is given one. */
export type RunVmOptions = Omit<NewVm, 'disk' | 'image' | 'name'> &
  VmBase &
  VmHomeOptions & {
    readonly name?: string;
    /** it boots, whatever others have done before it, and leaves nothing for later ones; default false */
    readonly cold?: boolean;
  };

/**
 * A VM of this user, as the command line has it too: it runs in a process of its own, and goes on when this one ends,
 * unless it is temporary.
 * All waits take a time limit and an AbortSignal; errors have codes.
 */
export class Vm implements AsyncDisposable {
  readonly name: string;
  /** the VM's console */
  readonly serial: VmSerial;
  readonly #store: VmStore;
  readonly #owner: Disposable | undefined;

  /**
   * Makes a VM. An image that is not here is downloaded.
   * @throws VmNameError, VmStoreError (EEXIST), StorageError, ImageError
   */
  static async create({ home, temporary = false, ...vm }: CreateVmOptions): Promise<Vm> {
    const store = openStore(home);
    return onBase(pathsOf(home), vm, async (complete) => {
      if (temporary) return new Vm(store, vm.name, await createTemporaryVm(store, complete));
      await createVm(store, complete);
      return new Vm(store, vm.name);
    });
  }

  /**
   * Runs one command in a VM that is gone afterwards: see {@link exec}. The first VM of its kind boots, and later ones
   * go on from where it had.
   * @throws as {@link create}, {@link start}, {@link wait} and {@link exec} do
   */
  static async run(
    vm: RunVmOptions,
    command: string,
    args: readonly string[] = [],
    options: VmExecOptions = {},
  ): Promise<VmExecResult> {
    const { home, cold = false, name = `run-${randomBytes(4).toString('hex')}`, ...rest } = vm;
    const paths = pathsOf(home);
    const store = openStore(home);
    const made = await onBase(paths, { ...rest, name }, (complete) =>
      createRunVm(paths, store, complete, { temporary: true, cold }),
    );
    {
      await using own = new Vm(store, name, made.owner);
      const spoilt = await own.start().then(
        () => false,
        async (error: unknown) => {
          if (await isSpoilt(paths, made, error)) return true;
          throw error;
        },
      );
      if (!spoilt) {
        await own.wait('agent', options.signal && { signal: options.signal });
        await keepBooted(paths, store, name, made, options.signal);
        return await own.exec(command, args, options);
      }
    }
    return await Vm.run({ ...vm, cold: true }, command, args, options);
  }

  /** A VM that is there. @throws VmStoreError (ENOVM) */
  static get(name: string, { home }: VmHomeOptions = {}): Vm {
    const store = openStore(home);
    store.folderOf(name);
    return new Vm(store, name);
  }

  /** All VMs, by name. */
  static list({ home }: VmHomeOptions = {}): Vm[] {
    const store = openStore(home);
    return store.names().map((name) => new Vm(store, name));
  }

  /** What has happened to VMs, in its order; with `follow`, and what happens. */
  static events({ home, ...filter }: EventFilter & VmHomeOptions = {}): AsyncGenerator<VmEvent> {
    return readEvents(pathsOf(home).root, filter);
  }

  private constructor(store: VmStore, name: string, owner?: Disposable) {
    this.#store = store;
    this.name = name;
    this.#owner = owner;
    this.serial = new VmSerial(store, name);
  }

  get status(): VmStatus {
    return this.#store.status(this.name);
  }

  /** @throws IniError where somebody has spoilt its file */
  get settings(): VmSettings {
    return this.#store.settings(this.name);
  }

  /**
   * Changes its settings, and what of them a running one can take at once.
   * @returns what a running one has after a restart only, for people
   * @throws VmStoreError, IniError, OptionError, StorageError, ControlError
   */
  set(change: VmChange): Promise<string[]> {
    return changeVm(this.#store, this.name, change);
  }

  /**
   * Resolves when the VM runs. Its guest boots from then on, or goes on from where it was suspended.
   * @param options.cold it boots whatever it was before
   * @throws VmStoreError with what is wrong
   */
  async start({ cold = false }: { readonly cold?: boolean } = {}): Promise<void> {
    await startVmProcess(this.#store, this.name, { tied: this.#owner !== undefined, cold });
  }

  /** Has the guest power off, or ends it. @returns whether it did so itself */
  stop(options?: StopOptions): Promise<boolean> {
    return stopVm(this.#store, this.name, options);
  }

  kill(): Promise<void> {
    return killVm(this.#store, this.name);
  }

  /** Its vCPUs stand still until {@link resume}. @throws VmStoreError (ESTOPPED), ControlError */
  async pause(): Promise<void> {
    using connection = new VmConnection(this.#store, this.name);
    await connection.control.pause();
  }

  async resume(): Promise<void> {
    using connection = new VmConnection(this.#store, this.name);
    await connection.control.resume();
  }

  /** Writes what it is to disk, and ends it: {@link start} goes on from there. @throws VmStoreError (ESTOPPED), ControlError */
  async suspend(): Promise<void> {
    await suspendVm(this.#store, this.name);
  }

  /** Takes a snapshot: see {@link CreateSnapshotOptions}. @throws SnapshotError, StorageError, ControlError */
  snapshot(options?: CreateSnapshotOptions): Promise<TakenSnapshot> {
    return createSnapshot(this.#store, this.name, options);
  }

  /** All snapshots, each one before those that were taken after it. */
  async snapshots(): Promise<readonly SnapshotInfo[]> {
    return (await listSnapshots(this.#store, this.name)).snapshots;
  }

  /** Removes snapshots. @throws SnapshotError (ENOSNAP), StorageError */
  removeSnapshots(...names: readonly string[]): Promise<void> {
    return removeSnapshots(this.#store, this.name, names);
  }

  /**
   * Has it be what it was at a snapshot. One with memory runs on then, another one is off.
   * @throws SnapshotError, StorageError: it is as before then
   */
  async restore(snapshot: string, options?: RestoreOptions): Promise<void> {
    const { memory } = await restoreSnapshot(this.#store, this.name, snapshot, options);
    if (memory) await this.start();
  }

  /**
   * Makes a VM that goes on from where this one is, or was at a snapshot, when it is started.
   * @throws VmNameError, VmStoreError (EEXIST), SnapshotError, StorageError, ControlError
   */
  async clone(name: string, { snapshot }: { readonly snapshot?: string } = {}): Promise<Vm> {
    await cloneVm(this.#store, { name: this.name, ...(snapshot !== undefined && { snapshot }) }, [name]);
    return new Vm(this.#store, name);
  }

  /** Removes the VM and its disks. @throws VmStoreError (ERUNNING) unless `force` */
  async delete({ force = false }: { readonly force?: boolean } = {}): Promise<void> {
    this.serial.close();
    if (force && this.status.state === 'running') await this.kill();
    await this.#store.delete(this.name);
  }

  /** @throws WaitError with the end of the console */
  wait(target: WaitTarget, options?: WaitOptions): Promise<void> {
    return waitFor(this.#store, this.name, target, options);
  }

  /**
   * Runs a command in the guest by its agent, for which it waits. Awaited it gives the result, iterated over what the
   * command says as it says it. An exit code that is not 0 is no error, unless `check` says so.
   * @throws ControlError (EAGENT…), VmExecError, VmStoreError (ESTOPPED), the signal's reason: awaited or iterated over
   */
  exec(command: string, args: readonly string[] = [], options: VmExecOptions = {}): VmExec {
    return new VmExec(() => new VmConnection(this.#store, this.name), command, args, options);
  }

  /** What the console shows after all that it has said since the VM was started, the last MiB of it at most. */
  async screen(size?: ScreenSize): Promise<VmScreen> {
    // The terminal is much code, which few need.
    const { VmScreen } = await import('./screen.ts');
    const output = consoleBytes(this.#store.folderOf(this.name), this.status.record?.consoleFrom);
    return VmScreen.of(output, size);
  }

  /**
   * Copies a file or folder of this host into the guest, or what a stream has into a file there. What was there is
   * replaced when all has come; `FOLDER/.` is what is in a folder; in a folder that is there copies have their names.
   * @param target path in the guest, from its root folder on
   * @throws CopyError, ControlError, VmStoreError (ESTOPPED), the signal's reason
   */
  copyIn(source: string | Readable, target: string, options?: CopyOptions): Promise<CopyResult> {
    if (typeof source === 'string') return copyIn(this.#guest, source, target, options);
    return writeGuestFile(this.#guest, source, target, options);
  }

  /** Copies a file or folder of the guest to this host, or what a file there has to a stream: see {@link copyIn}. */
  copyOut(source: string, target: string | Writable, options?: CopyOptions): Promise<CopyResult> {
    if (typeof target === 'string') return copyOut(this.#guest, source, target, options);
    return readGuestFile(this.#guest, source, target, options);
  }

  get #guest(): CopyGuest {
    return { name: this.name, exec: (command, args, options) => this.exec(command, args, options) };
  }

  /** Lets go of the console; a temporary VM is gone then. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.serial.close();
    if (this.#owner === undefined) return;
    await this.delete({ force: true });
    this.#owner[Symbol.dispose]();
  }
}

/** @param make has to have the overlay made when it resolves */
async function onBase<T>(
  paths: ManagerPaths,
  vm: Omit<NewVm, 'disk' | 'image'> & VmBase,
  make: (complete: NewVm) => Promise<T>,
): Promise<T> {
  if (vm.disk !== undefined) return make(vm);
  return onImage(paths, vm.image, ({ disk, seed, image = vm.image, ...base }) =>
    make({ ...base, ...vm, disk, image, seed: { ...seed, ...vm.seed } }),
  );
}

function pathsOf(home: string | undefined): ManagerPaths {
  return managerPaths(home === undefined ? process.env : { TSVM_HOME: home });
}

function openStore(home: string | undefined): VmStore {
  const paths = pathsOf(home);
  privateFolder(paths.root);
  return new VmStore(paths.vms, new EventJournal(paths.root));
}
