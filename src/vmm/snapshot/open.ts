/** A snapshot that a machine is to go on from. */
import { linkSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestRam } from '../../kvm/memory.ts';
import { filesOf, openMemory, type MemoryBase } from './memory-file.ts';
import { SnapshotError } from './error.ts';
import { Touched } from './touched.ts';
import { readState, STATE_FILE, type MachineState } from './state-file.ts';
import type { RestoreOptions, VmOptions } from '../types.ts';

export type OpenedSnapshot = {
  readonly state: MachineState;
  readonly ram: GuestRam;
  readonly base: MemoryBase | undefined;
  readonly touched: Touched;
  /** Resolves when RAM may be used. @throws KvmError */
  readonly ready: Promise<void>;
};

/**
 * @param settings what the machine is to be: it has to be the one that was saved
 * @throws SnapshotError, KvmError
 */
export function openSnapshot(
  { folder, keep, prefetch = false }: RestoreOptions,
  settings: Required<Pick<VmOptions, 'memory' | 'cpus' | 'transport'>>,
): OpenedSnapshot {
  const path = join(folder, STATE_FILE);
  const state = readState(path);
  const differences = [
    difference('memory', state.memory.size, settings.memory),
    difference('cpus', state.cpus, settings.cpus),
    difference('transport', state.transport, settings.transport),
  ].filter((each) => each !== undefined);
  if (differences.length > 0)
    throw new SnapshotError(
      path,
      'EFOREIGN',
      `is of another machine: ${differences.join(', ')}`,
      'give the VM the settings that it had, or start it without',
    );
  const { size, layers } = state.memory;
  const ram = openMemory(folder, size, layers);
  const touched = new Touched(folder, size);
  const { ranges } = touched;
  const ready =
    prefetch && ranges !== undefined && ranges.length > 0
      ? ram.prefetch(filesOf(folder, layers), ranges)
      : Promise.resolve();
  // Whatever else fails before anybody waits for it.
  ready.catch(() => undefined);
  return {
    state,
    ram,
    base: keep === undefined ? undefined : keepLayers(folder, keep, layers),
    touched,
    ready,
  };
}

function difference(name: string, saved: string | number, now: string | number): string | undefined {
  return saved === now ? undefined : `${name} was ${saved}, and is to be ${now}`;
}

/** Names for memory files that outlive those of the snapshot. Undefined where the file system has no hard links. */
function keepLayers(
  folder: string,
  keep: string,
  layers: MachineState['memory']['layers'],
): MemoryBase | undefined {
  try {
    mkdirSync(keep, { recursive: true, mode: 0o700 });
    return layers.map(({ file, extents }) => {
      const path = join(keep, file);
      linkSync(join(folder, file), path);
      return { path, ...(extents !== undefined && { extents }) };
    });
  } catch {
    return undefined;
  }
}
