import { mkdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import { packageVersion } from '../../kvm/package-version.ts';
import { RESUME, VM_INI } from '../vms/files.ts';
import { whileVmLocked } from '../vms/folder-lock.ts';
import { ended, killVm, VmConnection } from '../vms/lifecycle.ts';
import type { VmStore } from '../vms/store.ts';
import { formatVmIni } from '../vms/vm-ini.ts';
import { SnapshotError } from './errors.ts';
import { digestOf, writeSnapshot } from './record.ts';
import { recover } from './recover.ts';

/** A process that has written all ends soon, in milliseconds. */
const END_LIMIT = 30_000;

/**
 * Writes what a VM is at this moment to its folder, and ends it: its next start goes on from there.
 * @throws VmStoreError (ESTOPPED), ControlError: the VM goes on then
 */
export async function suspendVm(store: VmStore, name: string): Promise<void> {
  const folder = store.folderOf(name);
  await whileVmLocked(folder, async () => {
    recover(folder);
    const resume = join(folder, RESUME);
    using connection = new VmConnection(store, name);
    await rm(resume, { recursive: true, force: true });
    mkdirSync(resume, { mode: 0o700 });
    const settings = store.settings(name);
    try {
      const { stopMs } = await connection.control.snapshot({
        folder: RESUME,
        memory: true,
        live: false,
        quiesce: false,
        // The disks wait as they are.
        layers: [],
        stop: true,
      });
      const kept = { ...settings, vm: { ...settings.vm, identity: settings.vm.identity ?? name } };
      writeFileSync(join(resume, VM_INI), formatVmIni(kept, name), { mode: 0o600, flush: true });
      writeSnapshot(resume, {
        format: 'tsvm-snapshot',
        version: 1,
        id: randomUUID(),
        name: 'suspended',
        created: new Date().toISOString(),
        tsvm: packageVersion(),
        memory: true,
        live: false,
        quiesced: false,
        stopMs,
        ram: settings.vm.memory,
        disks: [],
        state: digestOf(join(resume, STATE_FILE)),
      });
    } catch (error) {
      await rm(resume, { recursive: true, force: true });
      throw error;
    }
    if (!(await ended(store, name, END_LIMIT))) {
      await killVm(store, name);
      throw new SnapshotError('EEND', `the process of the VM '${name}' did not end by itself; it was killed`);
    }
  });
}
