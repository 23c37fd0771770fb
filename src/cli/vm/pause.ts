/** Verbs that have a VM stand still, and go on. */
import type { Command } from 'commander';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

/** `tsvm pause`: the vCPUs stand still; memory stays where it is. */
export function addPause(program: Command, done: Done): void {
  addOfRunning(program, 'pause', 'have VMs stand still', done);
}

/** `tsvm resume`: ends that. */
export function addResume(program: Command, done: Done): void {
  addOfRunning(program, 'resume', 'have VMs that were paused go on', done);
}

function addOfRunning(program: Command, verb: 'pause' | 'resume', description: string, done: Done): void {
  addVerb(program, verb, description, [`tsvm ${verb} web`])
    .argument('<name...>', NAME_HELP)
    .action(async (names: readonly string[]) => {
      const { VmConnection } = await import('../../manager/vms/lifecycle.ts');
      const store = openStore();
      for (const name of names) {
        using connection = new VmConnection(store, name);
        await connection.control[verb]();
      }
      done(EXIT.ok);
    });
}

/** `tsvm suspend`: to disk. */
export function addSuspend(program: Command, done: Done): void {
  addVerb(program, 'suspend', 'write VMs to disk and end them; `start` goes on from there', [
    'tsvm suspend web',
  ])
    .argument('<name...>', NAME_HELP)
    .action(async (names: readonly string[]) => {
      const { suspendVm } = await import('../../manager/snapshots/suspend.ts');
      const store = openStore();
      for (const name of names) await suspendVm(store, name);
      done(EXIT.ok);
    });
}
