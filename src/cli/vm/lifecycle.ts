/** Verbs that begin and end a VM's life. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';
import { SNAPSHOTS } from '../../manager/vms/files.ts';
import type { StartOptions } from '../../manager/vms/lifecycle.ts';
import type { VmStore } from '../../manager/vms/store.ts';
import { jailOption, NAME_HELP, openStore } from './vms.ts';

const TIMEOUT_HELP = 'how long the guest may take before it is forced';
const LONGEST_STOP = 86_400;

const load = () => import('../../manager/vms/lifecycle.ts');

/** `tsvm start`: boots a VM, in a process of its own. */
export function addStart(program: Command, done: Done): void {
  addVerb(program, 'start', 'start VMs', ['tsvm start web', 'tsvm start web db', 'tsvm start --cold web'])
    .argument('<name...>', NAME_HELP)
    .option('--cold', 'boot it, also where it was suspended: what ran then is lost')
    .addOption(jailOption())
    .action(async (names: readonly string[], flags: StartOptions) => {
      const { startVmProcess } = await load();
      const store = openStore();
      for (const name of names) await startVmProcess(store, name, flags);
      done(EXIT.ok);
    });
}

type StopFlags = { readonly force?: true; readonly timeout: number };

/** `tsvm stop`: has the guest power itself off. */
export function addStop(program: Command, done: Done): void {
  addVerb(program, 'stop', 'stop VMs', [
    'tsvm stop web',
    'tsvm stop --timeout 120 web db',
    'tsvm stop --force web',
  ])
    .argument('<name...>', NAME_HELP)
    .option('-f, --force', 'do not ask the guest: as if its power was cut')
    .option('-t, --timeout <seconds>', TIMEOUT_HELP, wholeNumber(1, LONGEST_STOP), 60)
    .action(async (names: readonly string[], { force, timeout }: StopFlags) => {
      const { stopVm } = await load();
      const store = openStore();
      await Promise.all(
        names.map(async (name) => {
          const byItself = await stopVm(store, name, { timeout: timeout * 1000, force: force === true });
          await tidy(store, name);
          if (!byItself && !force)
            process.stderr.write(`tsvm: '${name}' did not power off within ${timeout} s and was forced\n`);
        }),
      );
      done(EXIT.ok);
    });
}

/** Gives back what snapshots have left that were removed while the VM ran. */
async function tidy(store: VmStore, name: string): Promise<void> {
  // One that was for a command is deleted with its end.
  if (!store.names().includes(name) || !existsSync(join(store.folderOf(name), SNAPSHOTS))) return;
  const { tidySnapshots } = await import('../../manager/snapshots/store.ts');
  await tidySnapshots(store, name);
}

/** `tsvm restart`: stop and start. */
export function addRestart(program: Command, done: Done): void {
  addVerb(program, 'restart', 'stop VMs and start them again', ['tsvm restart web'])
    .argument('<name...>', NAME_HELP)
    .option('-f, --force', 'do not ask the guest: as if its power was cut')
    .option('-t, --timeout <seconds>', TIMEOUT_HELP, wholeNumber(1, LONGEST_STOP), 60)
    .action(async (names: readonly string[], { force, timeout }: StopFlags) => {
      const { startVmProcess, stopVm } = await load();
      const store = openStore();
      for (const name of names) {
        if (store.status(name).state === 'running')
          await stopVm(store, name, { timeout: timeout * 1000, force: force === true });
        await startVmProcess(store, name);
      }
      done(EXIT.ok);
    });
}

/** `tsvm kill`: ends a VM's process. */
export function addKill(program: Command, done: Done): void {
  addVerb(program, 'kill', "kill VMs' processes", ['tsvm kill web'])
    .argument('<name...>', NAME_HELP)
    .action(async (names: readonly string[]) => {
      const { killVm } = await load();
      const store = openStore();
      for (const name of names) await killVm(store, name);
      done(EXIT.ok);
    });
}

/** `tsvm delete`: removes VMs with their disks. */
export function addDelete(program: Command, done: Done): void {
  addVerb(program, 'delete', 'delete VMs and their disks', ['tsvm delete web', 'tsvm delete --force web db'])
    .alias('rm')
    .argument('<name...>', NAME_HELP)
    .option('-f, --force', 'also VMs that run: they are killed')
    .action(async (names: readonly string[], { force }: { readonly force?: true }) => {
      const { killVm } = await load();
      const store = openStore();
      for (const name of names) {
        if (force && store.status(name).state === 'running') await killVm(store, name);
        await store.delete(name);
      }
      done(EXIT.ok);
    });
}

/** `tsvm rename`. */
export function addRename(program: Command, done: Done): void {
  addVerb(program, 'rename', 'give a VM another name', ['tsvm rename web www'])
    .argument('<name>', NAME_HELP)
    .argument('<new>', 'its new name')
    .action((name: string, to: string) => {
      openStore().rename(name, to);
      done(EXIT.ok);
    });
}

/** The command that `tsvm start` runs a VM in; not for people. */
export function addVmProcess(program: Command, done: Done): void {
  program
    .command('vm-process', { hidden: true })
    .argument('<folder>')
    .option('--tied', 'end with the process that has started it')
    .addOption(jailOption())
    .action(async (folder: string, flags: StartOptions) => {
      const { vmProcess } = await import('../../manager/vmm/main.ts');
      done(await vmProcess(folder, flags));
    });
}
