/** Changes of a VM that is there: its settings, and what of them a running one can take at once. */
import { join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import { parseForward } from '../../net/forward.ts';
import { diskInfo, resizeDisk } from '../../storage/tools.ts';
import { OptionError } from '../options/option-error.ts';
import { networksOf, parseNet } from '../options/net-options.ts';
import { changeLimits } from '../vmm/cgroup.ts';
import { VmConnection } from './lifecycle.ts';
import type { VmSettings } from './settings.ts';
import { VmStoreError, type VmStore } from './store.ts';

/** What is not there stays as it is. */
export type VmChange = {
  /** bytes */
  readonly memory?: number;
  readonly cpus?: number;
  /** size of its first disk in bytes, not smaller than it is */
  readonly diskSize?: number;
  /** all ports of the host that lead to the guest, as `tsvm run --publish` has them */
  readonly publish?: readonly string[];
  /** CPUs' worth of time for its process; null: no limit */
  readonly cpuLimit?: number | null;
  /** memory for its process, in bytes; null: no limit */
  readonly memoryLimit?: number | null;
};

/**
 * Changes a VM. Of a running one the disk grows at once, memory below that of its start goes into the balloon, and
 * limits change where it was started with limits of the same kind; all else is for the next start.
 * @returns what a running VM has after a restart only, for people
 * @throws VmStoreError, IniError, OptionError, StorageError, ControlError; nothing is changed then but perhaps the disk
 */
export async function changeVm(store: VmStore, name: string, change: VmChange): Promise<string[]> {
  const { memory, cpus, diskSize, publish, cpuLimit, memoryLimit } = change;
  const settings = changed(store.settings(name), change);
  checkNetworks(settings);
  const { state, record } = store.status(name);
  if (state === 'suspended' && (memory ?? cpus ?? diskSize) !== undefined)
    throw new VmStoreError(
      'ESUSPENDED',
      `the VM '${name}' is suspended, and goes on with the memory, CPUs and disks that it had`,
      `stop it after its next start, or discard where it was (\`tsvm start --cold ${name}\`)`,
    );
  using running = state === 'running' ? new VmConnection(store, name) : undefined;
  if (diskSize !== undefined) await growDisk(store, name, diskSize, running);
  if (Object.keys(change).some((key) => key !== 'diskSize')) store.writeSettings(name, settings);
  if (running === undefined) return [];
  const limits = { cpu: cpuLimit, memory: memoryLimit };
  return [
    ...(memory !== undefined && !(await inflate(running, memory)) ? ['memory'] : []),
    ...(cpus === undefined ? [] : ['CPUs']),
    // What serves them has its ports from its start on.
    ...(publish === undefined ? [] : ['published ports']),
    ...(changeLimits(record?.group, limits) ? [] : ['limits']),
  ];
}

function changed(settings: VmSettings, change: VmChange): VmSettings {
  const { memory, cpus, publish, cpuLimit, memoryLimit } = change;
  const { cpuLimit: oldCpuLimit, memoryLimit: oldMemoryLimit, ...vm } = settings.vm;
  const limits = {
    cpuLimit: cpuLimit === undefined ? oldCpuLimit : (cpuLimit ?? undefined),
    memoryLimit: memoryLimit === undefined ? oldMemoryLimit : (memoryLimit ?? undefined),
  };
  return {
    ...settings,
    vm: {
      ...vm,
      ...(memory !== undefined && { memory }),
      ...(cpus !== undefined && { cpus }),
      ...(limits.cpuLimit !== undefined && { cpuLimit: limits.cpuLimit }),
      ...(limits.memoryLimit !== undefined && { memoryLimit: limits.memoryLimit }),
    },
    network: { ...settings.network, ...(publish !== undefined && { publish: [...publish] }) },
  };
}

function checkNetworks({ network }: VmSettings): void {
  networksOf(network.cards.map(parseNet), { forwards: network.publish.map(parseForward) });
}

/** Has the guest give back what it is to have no more. @returns false where it is to have more than it was started with */
async function inflate({ control }: VmConnection, memory: number): Promise<boolean> {
  const { memory: most } = await control.describe();
  if (memory > most) return false;
  try {
    await control.resizeBalloon(most - memory);
    return true;
  } catch (error) {
    if (systemCode(error) === 'ENODEV') return false;
    throw error;
  }
}

async function growDisk(
  store: VmStore,
  name: string,
  size: number,
  running: VmConnection | undefined,
): Promise<void> {
  const [first] = store.settings(name).disks;
  if (first === undefined) throw new VmStoreError('ENODISK', `the VM '${name}' has no disk`);
  const source = {
    path: join(store.folderOf(name), first.file),
    format: first.format,
    ...(first.trustBacking && { backing: { trusted: true } }),
  };
  const [info] = await diskInfo(source, { chain: false, share: true });
  if (size < info.virtualSize)
    throw new OptionError(
      `a disk is not made smaller than the ${info.virtualSize} bytes it has: the guest would lose data`,
    );
  if (running === undefined) await resizeDisk(source, size);
  else await running.control.resizeDisk(0, size);
}
