import { randomBytes } from 'node:crypto';
import { EventJournal, readEvents, type EventFilter, type VmEvent } from '../events.ts';
import { managerPaths, privateFolder, type ManagerPaths } from '../paths.ts';
import type { ExecAnswer } from '../control/types.ts';
import { createTemporaryVm, createVm, type NewVm } from './create.ts';
import { onImage } from './image-base.ts';
import { killVm, startVmProcess, stopVm, VmConnection, type StopOptions } from './lifecycle.ts';
import { VmSerial } from './serial.ts';
import type { VmSettings } from './settings.ts';
import { VmStore, type VmStatus } from './store.ts';
import { waitFor, type WaitOptions, type WaitTarget } from './wait.ts';

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
  VmHomeOptions & { readonly name?: string };

export type VmExecOptions = WaitOptions & {
  readonly env?: Readonly<Record<string, string>>;
  /** standard input, at most 16 MiB */
  readonly input?: Uint8Array | string;
  /** an exit code other than 0 is an error; default false */
  readonly check?: boolean;
};

/** What a command in a VM has come to. */
export type VmExecResult = {
  /** undefined where a signal has ended it */
  readonly exitCode: number | undefined;
  readonly signal: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
};

/** A command in a VM has ended with another exit code than 0, and that was not to be. */
export class VmExecError extends Error {
  override readonly name = 'VmExecError';
  readonly code = 'EEXEC';
  readonly result: VmExecResult;

  constructor(command: string, result: VmExecResult) {
    const { exitCode, signal, stderr } = result;
    const how = exitCode === undefined ? `was ended by signal ${signal}` : `ended with exit code ${exitCode}`;
    super(`${command} ${how}${stderr === '' ? '' : `: ${stderr.trimEnd()}`}`);
    this.result = result;
  }
}

/** How long a guest may take until its agent answers, in milliseconds. */
const AGENT_TIMEOUT = 60_000;

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
    const paths = pathsOf(home);
    const store = openStore(home);
    const make = async (complete: NewVm): Promise<Vm> => {
      if (temporary) return new Vm(store, vm.name, await createTemporaryVm(store, complete));
      await createVm(store, complete);
      return new Vm(store, vm.name);
    };
    if (vm.disk !== undefined) return make(vm);
    return onImage(paths, vm.image, ({ disk, seed, image = vm.image, ...base }) =>
      make({ ...base, ...vm, disk, image, seed: { ...seed, ...vm.seed } }),
    );
  }

  /**
   * Runs one command in a VM that is gone afterwards: see {@link exec}.
   * @throws as {@link create}, {@link start}, {@link wait} and {@link exec} do
   */
  static async run(
    vm: RunVmOptions,
    command: string,
    args: readonly string[] = [],
    options: VmExecOptions = {},
  ): Promise<VmExecResult> {
    const name = vm.name ?? `run-${randomBytes(4).toString('hex')}`;
    await using own = await Vm.create({ ...vm, name, temporary: true });
    await own.start();
    await own.wait('agent', options.signal && { signal: options.signal });
    return await own.exec(command, args, options);
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

  /** Resolves when the VM runs; its guest boots from then on. @throws VmStoreError with what is wrong */
  async start(): Promise<void> {
    await startVmProcess(this.#store, this.name, { tied: this.#owner !== undefined });
  }

  /** Has the guest power off, or ends it. @returns whether it did so itself */
  stop(options?: StopOptions): Promise<boolean> {
    return stopVm(this.#store, this.name, options);
  }

  kill(): Promise<void> {
    return killVm(this.#store, this.name);
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
   * Runs a command in the guest by its agent, for which it waits up to a minute. An exit code that is not 0 is no
   * error, unless `check` says so.
   * @throws ControlError (EAGENT…), VmExecError, VmStoreError (ESTOPPED)
   */
  async exec(
    command: string,
    args: readonly string[] = [],
    options: VmExecOptions = {},
  ): Promise<VmExecResult> {
    const { env, input, timeout, signal, check = false } = options;
    using connection = new VmConnection(this.#store, this.name);
    await connection.control.waitForAgent(Math.min(timeout ?? AGENT_TIMEOUT, AGENT_TIMEOUT), signal);
    const answer = await connection.control.exec(
      {
        command,
        args: [...args],
        ...(env !== undefined && { env }),
        ...(timeout !== undefined && { timeout }),
        ...(input !== undefined && { input: Buffer.from(input).toString('base64') }),
      },
      signal,
    );
    const result = resultOf(answer);
    if (check && result.exitCode !== 0) throw new VmExecError([command, ...args].join(' '), result);
    return result;
  }

  /** Lets go of the console; a temporary VM is gone then. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.serial.close();
    if (this.#owner === undefined) return;
    await this.delete({ force: true });
    this.#owner[Symbol.dispose]();
  }
}

function pathsOf(home: string | undefined): ManagerPaths {
  return managerPaths(home === undefined ? process.env : { TSVM_HOME: home });
}

function openStore(home: string | undefined): VmStore {
  const paths = pathsOf(home);
  privateFolder(paths.root);
  return new VmStore(paths.vms, new EventJournal(paths.root));
}

function resultOf({ exitCode, signal, stdout, stderr }: ExecAnswer): VmExecResult {
  const text = (base64: string): string => Buffer.from(base64, 'base64').toString('utf8');
  return {
    exitCode: exitCode ?? undefined,
    signal: signal ?? undefined,
    stdout: text(stdout),
    stderr: text(stderr),
  };
}
