/** Taking a snapshot of a machine that stands still. */
import { closeSync, fsyncSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import type { Board } from '../../machine/board.ts';
import type { VirtioTransport } from '../../machine/virtio-bus.ts';
import { syncFolder } from '../../storage/sync-folder.ts';
import type { SnapshotOptions, SnapshotResult } from '../types.ts';
import { SnapshotError } from './error.ts';
import { MemoryWriter, type MemoryBase } from './memory-file.ts';
import { createTouched, TOUCHED_FILE } from './touched.ts';
import { formatState, STATE_FILE, type EncodedMachineState, type MemoryLayer } from './state-file.ts';

/** A machine, and how it is stopped. */
export type Subject = {
  readonly board: Board;
  readonly about: {
    readonly tsvm: string;
    readonly uuid: string;
    readonly transport: VirtioTransport;
    readonly devices: readonly string[];
  };
  /** what its RAM lies on */
  readonly base: MemoryBase | undefined;
  /** Brings what the guest has written to its disks to stable storage, while it runs. */
  readonly settleDisks: () => Promise<void>;
  /** Has it stand still. */
  readonly pause: () => Promise<void>;
  /** Lets it go on, unless it stood before. */
  readonly resume: () => void;
  /** Puts overlays on disks. */
  readonly freezeDisks: () => Promise<void>;
};

export type Taken = SnapshotResult & { readonly layers: readonly MemoryLayer[] };

/**
 * Writes the machine into a folder that has nothing of this name yet. The disks are switched at the same moment, last,
 * when nothing can fail any more but they.
 * @throws SnapshotError, KvmError, StorageError: the machine goes on as before, and nothing is left in the folder
 */
export async function takeSnapshot(subject: Subject, options: SnapshotOptions): Promise<Taken> {
  const { folder, memory = true, live = false } = options;
  const { board } = subject;
  await subject.settleDisks();
  await subject.pause();
  const stoppedAt = performance.now();
  let stopMs = 0;
  const goOn = (): void => {
    if (stopMs > 0) return;
    stopMs = performance.now() - stoppedAt;
    if (options.stop !== true) subject.resume();
  };
  let writer: MemoryWriter | undefined;
  const statePath = join(folder, STATE_FILE);
  let stateFd: number | undefined;
  try {
    let memoryBytes = 0;
    if (memory) {
      writer = new MemoryWriter(folder, board.ram, subject.base);
      const state = describe(subject, writer.layers);
      const writing = writer.write(live);
      // Whatever else fails, it is waited for.
      writing.catch(() => undefined);
      if (!live) memoryBytes = await writing;
      createTouched(folder);
      stateFd = writeFile(statePath, formatState(state));
      await subject.freezeDisks();
      goOn();
      if (live) memoryBytes = await writing;
      writer.sync();
      fsyncSync(stateFd);
    } else await subject.freezeDisks();
    goOn();
    syncFolder(folder);
    return { stopMs, memoryBytes, layers: writer?.layers ?? [] };
  } catch (error) {
    goOn();
    writer?.remove();
    if (stateFd !== undefined) rmSync(statePath, { force: true });
    if (memory) rmSync(join(folder, TOUCHED_FILE), { force: true });
    throw error;
  } finally {
    if (stateFd !== undefined) closeSync(stateFd);
    writer?.close();
  }
}

function describe({ board, about }: Subject, layers: readonly MemoryLayer[]): EncodedMachineState {
  return {
    created: Date.now(),
    tsvm: about.tsvm,
    uuid: about.uuid,
    cpus: board.vm.vcpus.length,
    transport: about.transport,
    devices: [...about.devices],
    memory: { size: board.ram.native.size, layers: [...layers] },
    board: board.save(),
  };
}

/** @returns its descriptor: what is in it is still to be brought to stable storage */
function writeFile(path: string, content: string): number {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'wx', 0o400);
    writeFileSync(fd, content);
    return fd;
  } catch (error) {
    if (fd !== undefined) {
      closeSync(fd);
      rmSync(path, { force: true });
    }
    const code = systemCode(error) ?? 'EIO';
    throw new SnapshotError(path, code, `cannot be written: ${code}`);
  }
}
