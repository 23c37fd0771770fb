import type { Command } from 'commander';

import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import { addBackingPolicy, policyOf, printJson, type BackingFlags } from './options.ts';
import { whileShown } from '../progress.ts';

type CommitFlags = BackingFlags & { readonly json?: true };

const EXAMPLES = ['tsvm disk commit vm1.qcow2'];

const HELP = `
What the overlay has is written to its backing file, and the overlay is empty then. Other overlays of that backing file
are of no use afterwards: they are refused. A commit that ends early can be done again.`;

/** `tsvm disk commit`: an overlay's contents into its backing file. */
export function addCommit(disk: Command, done: Done): void {
  const commit = addVerb(disk, 'commit', 'write what an overlay has to its backing file', EXAMPLES).argument(
    '<file>',
    'qcow2 overlay',
  );
  addBackingPolicy(commit)
    .option('--json', 'print a JSON object')
    .addHelpText('after', HELP)
    .action(async (file: string, flags: CommitFlags) => {
      const { commitOverlay } = await import('../../storage/tools.ts');
      const below = await whileShown(`committing ${file}`, (tell) =>
        commitOverlay(file, policyOf(flags), tell),
      );
      if (flags.json) printJson({ path: file, backingFile: below });
      else process.stdout.write(`${file}: committed to ${below}\n`);
      done(EXIT.ok);
    });
}
