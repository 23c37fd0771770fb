import type { Command } from 'commander';

import { printJson } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';

const EXAMPLES = ['tsvm image rm ubuntu:22.04', 'tsvm image rm $(tsvm image ls -q)'];

/** `tsvm image rm`: images that no VM uses. */
export function addRemove(image: Command, done: Done): void {
  addVerb(image, 'rm', 'remove images that no VM uses', EXAMPLES)
    .aliases(['remove', 'delete'])
    .argument('<image...>', 'names or identifiers; of a name, the newest image is meant')
    .option('--json', 'print a JSON array')
    .action(async (names: readonly string[], { json }: { readonly json?: true }) => {
      const { managerPaths } = await import('../../manager/paths.ts');
      const { loadCatalogue } = await import('../../manager/images/catalogue.ts');
      const { removeImage } = await import('../../manager/images/store.ts');
      const { freeImage } = await import('../../manager/warm/store.ts');
      const paths = managerPaths();
      const catalogue = (): ReturnType<typeof loadCatalogue> => loadCatalogue(paths.config);
      const removed = [];
      for (const name of names) {
        const result = await removeImage(paths, name, (each) => freeImage(paths, each), catalogue);
        removed.push(result);
        if (!json) process.stdout.write(`${result.id}: removed\n`);
      }
      if (json) printJson(removed);
      done(EXIT.ok);
    });
}
