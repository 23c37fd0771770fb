import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import { UsageError } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import { NAME_HELP, openStore, SNAPSHOT_HELP } from './vms.ts';

type RestoreFlags = { readonly saveCurrent?: string; readonly force?: true };

const HELP = `
What the VM was at the snapshot takes the place of what it is: disks, settings, and where the snapshot has memory, what
ran, which goes on at once. Without memory the VM is off then, and boots at its next start.`;

/** `tsvm restore`: back to a snapshot. */
export function addRestore(program: Command, done: Done): void {
  addVerb(program, 'restore', 'have a VM be as it was at a snapshot', [
    'tsvm restore web before-upgrade',
    'tsvm restore web before-upgrade --save-current after-upgrade',
  ])
    .argument('<name>', NAME_HELP)
    .argument('<snapshot>', SNAPSHOT_HELP)
    .option('--save-current <snapshot>', 'take a snapshot of what the VM is now, first')
    .option('-f, --force', 'do not ask: what the VM is now is lost')
    .addHelpText('after', HELP)
    .action(async (name: string, snapshot: string, { saveCurrent, force }: RestoreFlags) => {
      if (saveCurrent !== undefined && force)
        throw new UsageError('--save-current and --force do not go together');
      const { getSnapshot } = await import('../../manager/snapshots/store.ts');
      const store = openStore();
      getSnapshot(store, name, snapshot);
      if (saveCurrent === undefined && !force && !(await isAgreed(name, snapshot))) {
        process.stderr.write('tsvm: nothing was changed\n');
        done(EXIT.failed);
        return;
      }
      const { restoreSnapshot } = await import('../../manager/snapshots/restore.ts');
      const { memory } = await restoreSnapshot(
        store,
        name,
        snapshot,
        saveCurrent === undefined ? {} : { saveCurrent },
      );
      if (memory) {
        const { startVmProcess } = await import('../../manager/vms/lifecycle.ts');
        await startVmProcess(store, name);
      }
      done(EXIT.ok);
    });
}

/** @throws UsageError where there is nobody to ask */
async function isAgreed(name: string, snapshot: string): Promise<boolean> {
  if (!process.stdin.isTTY || !process.stderr.isTTY)
    throw new UsageError(
      `what the VM '${name}' is now would be lost`,
      'keep it with --save-current SNAPSHOT, or say --force',
    );
  const dialog = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await dialog.question(
      `What the VM '${name}' is now is lost. Go back to '${snapshot}'? [y/N] `,
    );
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    dialog.close();
  }
}
