import type { Command } from 'commander';

import { printJson } from '../disk/options.ts';
import { printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { table } from '../table.ts';
import { addVerb, type Done } from '../verb.ts';

type ListFlags = { readonly all?: true; readonly json?: true; readonly quiet?: true };

const EXAMPLES = ['tsvm image ls', 'tsvm image ls --all', 'tsvm image ls --json | jq -r ".[].name"'];

/** `tsvm image ls`: what is here, and what could be. */
export function addList(image: Command, done: Done): void {
  addVerb(image, 'ls', 'list images', EXAMPLES)
    .alias('list')
    .option('-a, --all', 'also those of the catalogue that are not here')
    .option('-q, --quiet', 'print identifiers only; with --all, names of those that are not here')
    .option('--json', 'print a JSON array')
    .action(async ({ all, json, quiet }: ListFlags) => {
      const { managerPaths } = await import('../../manager/paths.ts');
      const { listImages, spaceOf } = await import('../../manager/images/store.ts');
      const { vmsOverImage } = await import('../../manager/images/users.ts');
      const paths = managerPaths();
      const { images, damaged } = listImages(paths);
      const here = await Promise.all(
        images.map(async (each) => ({
          ...each,
          size: await spaceOf(each.folder),
          usedBy: await vmsOverImage(paths, each),
        })),
      );
      const absent = all === true ? await notHere(paths.config, new Set(images.map(({ name }) => name))) : [];
      for (const { id, reason } of damaged) process.stderr.write(`tsvm: ${printable(`${id}: ${reason}`)}\n`);
      if (json) printJson([...here, ...absent]);
      else if (quiet)
        process.stdout.write(
          [...here.map(({ id }) => id), ...absent.map(({ name }) => name)]
            .map((line) => `${line}\n`)
            .join(''),
        );
      else {
        const rows = [
          ...here.map(({ name, id, created, size, virtualSize, usedBy }) => [
            name,
            id,
            created.slice(0, 10),
            formatSize(size),
            formatSize(virtualSize),
            usedBy.length === 0 ? '-' : usedBy.join(', '),
          ]),
          ...absent.map(({ name, title }) => [name, '-', '-', '-', '-', title]),
        ];
        process.stdout.write(
          table(['NAME', 'ID', 'CREATED', 'TAKES', 'DISK', all ? 'USED BY, OR WHAT IT IS' : 'USED BY'], rows),
        );
      }
      done(EXIT.ok);
    });
}

/** Entries of the catalogue, as far as they say something without a download. */
async function notHere(
  config: string,
  here: ReadonlySet<string>,
): Promise<{ name: string; aliases: readonly string[]; title: string; source: string }[]> {
  const { loadCatalogue } = await import('../../manager/images/catalogue.ts');
  return loadCatalogue(config)
    .entries.filter(({ name }) => !here.has(name))
    .map(({ name, aliases, title, disk }) => ({ name, aliases, title, source: disk.url }));
}
