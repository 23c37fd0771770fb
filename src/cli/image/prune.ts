import type { Command } from 'commander';

import { printJson } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';

const EXAMPLES = ['tsvm image prune'];

/** `tsvm image prune`: gives back what nobody uses. */
export function addPrune(image: Command, done: Done): void {
  addVerb(
    image,
    'prune',
    'remove all images that no VM uses, what broken downloads left, and what `run` goes on from',
    EXAMPLES,
  )
    .option('--json', 'print a JSON object')
    .action(async ({ json }: { readonly json?: true }) => {
      const { managerPaths } = await import('../../manager/paths.ts');
      const { pruneImages } = await import('../../manager/images/store.ts');
      const { vmsOverImage } = await import('../../manager/images/users.ts');
      const paths = managerPaths();
      const { pruneWarm } = await import('../../manager/warm/store.ts');
      // They lie on images.
      const warm = await pruneWarm(paths);
      const { removed, freed: images } = await pruneImages(paths, (each) => vmsOverImage(paths, each));
      const freed = warm + images;
      if (json) printJson({ removed: removed.map(({ id }) => id), freed });
      else {
        const lines = removed.map(({ id }) => `${id}: removed\n`);
        process.stdout.write(`${lines.join('')}${formatSize(freed)} are free again\n`);
      }
      done(EXIT.ok);
    });
}
