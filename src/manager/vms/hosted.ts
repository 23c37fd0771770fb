/**
 * A VM in the process that has made it, for one command whose end is the VM's, too: a process of its own would take
 * its time to start. It has the same files, sockets and jail as any other, and other commands find it.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { dirname, join } from 'node:path';
import { Keeper } from '../../kvm/keeper.ts';
import { errorDetails } from '../control/errors.ts';
import { readRecord } from '../vmm/record.ts';
import { runVmProcess, type VmProcess } from '../vmm/process.ts';
import { whileVmLocked } from './folder-lock.ts';
import { prepareStart, startError, VmConnection } from './lifecycle.ts';
import { hiddenFolder } from './owner.ts';
import { VmStoreError, type VmStore } from './store.ts';
import { hasAgent, waitError } from './wait.ts';

/** Out of the jail, one folder of many can be removed by somebody else only. Within it, all could be. */
const REMOVE = 'mv -T -- "$1" "$2" && rm -rf -- "$2"';

/** What the event loop is kept alive with for as long as somebody else is at work; in milliseconds. */
const ALIVE = 60_000;

/**
 * Whether this process may host one: not where Node has a ring of its own (UV_USE_IO_URING), which could do what the
 * jail forbids.
 */
export function canHostVm(): boolean {
  return !readdirSync('/proc/self/fd').some((fd) => {
    try {
      return readlinkSync(join('/proc/self/fd', fd)) === 'anon_inode:[io_uring]';
    } catch {
      return false;
    }
  });
}

export class HostedVm {
  readonly #store: VmStore;
  readonly #name: string;
  readonly #remover: Keeper;
  #vm: VmProcess | undefined;
  /** resolves when it has ended, however */
  #ended: Promise<void> = Promise.resolve();
  #running = false;

  private constructor(store: VmStore, name: string) {
    this.#store = store;
    this.#name = name;
    const folder = store.folderOf(name);
    const gone = hiddenFolder(dirname(folder), 'old', name);
    this.#remover = new Keeper(['/bin/sh', '-c', REMOVE, 'sh', folder, gone], process.env);
  }

  /**
   * Starts a VM in this process, which goes to the VM's folder, and with the guest's first instruction to jail. Where
   * that fails the VM is deleted.
   * @throws VmStoreError (ERUNNING, or what is wrong with it)
   */
  static async start(store: VmStore, name: string): Promise<HostedVm> {
    const hosted = new HostedVm(store, name);
    const cwd = process.cwd();
    // Theirs is open before the jail, in which it could not be opened.
    store.events?.open();
    try {
      await whileVmLocked(store.folderOf(name), async () => {
        prepareStart(store, name, {});
        await hosted.#start();
      });
      return hosted;
    } catch (error) {
      process.chdir(cwd);
      // What is left of it is gone with the next command that makes or deletes a VM.
      await hosted.remove().catch(() => undefined);
      throw error instanceof VmStoreError ? error : startError(name, errorDetails(error));
    }
  }

  readonly connect = (): VmConnection => new VmConnection(this.#store, this.#name, true);

  /** @param timeout in milliseconds @throws WaitError, the signal's reason */
  async waitForAgent(timeout: number, signal: AbortSignal): Promise<void> {
    const end = performance.now() + timeout;
    while (!(await hasAgent(this.connect, end - performance.now(), signal))) {
      const over = performance.now() >= end;
      if (over || !this.#running)
        throw waitError(this.#store.folderOf(this.#name), 'agent', over ? timeout : undefined);
      await sleep(10);
    }
  }

  /** Ends it, and deletes it. @throws VmStoreError */
  async remove(): Promise<void> {
    const folder = this.#store.folderOf(this.#name);
    this.#vm?.stop('force');
    await this.#ended;
    const { jail = 'off' } = readRecord(folder) ?? {};
    if (jail === 'off') {
      this.#remover.close();
      await this.#store.delete(this.#name);
      return;
    }
    const alive = setInterval(() => undefined, ALIVE);
    const { code, signal } = await this.#remover.run(process.stderr.fd);
    clearInterval(alive);
    this.#remover.close();
    if (code !== 0)
      throw new VmStoreError(
        'EDELETE',
        `${folder} could not be removed: ${signal ?? `status ${code}`}`,
        'the next command that makes or deletes a VM tries again',
      );
    this.#store.events?.add(this.#name, 'deleted');
  }

  #start(): Promise<void> {
    return new Promise((resolve, reject) => {
      const ready = (vm: VmProcess): void => {
        this.#vm = vm;
        this.#running = true;
        resolve();
      };
      this.#ended = runVmProcess(this.#store.folderOf(this.#name), { tied: true }, ready)
        // Once it runs, its log has why it has ended.
        .then(() => undefined, reject)
        .finally(() => (this.#running = false));
    });
  }
}
