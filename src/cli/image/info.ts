import type { Command } from 'commander';

import { printJson } from '../disk/options.ts';
import { printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';

const EXAMPLES = ['tsvm image info ubuntu', 'tsvm image info --json ubuntu | jq -r .disk'];

/** `tsvm image info`: all that is known of an image that is here. */
export function addInfo(image: Command, done: Done): void {
  addVerb(image, 'info', 'show what is known of an image', EXAMPLES)
    .alias('inspect')
    .argument('<image>', 'name or identifier')
    .option('--json', 'print a JSON object')
    .action(async (name: string, { json }: { readonly json?: true }) => {
      const { managerPaths } = await import('../../manager/paths.ts');
      const { loadCatalogue } = await import('../../manager/images/catalogue.ts');
      const { getImage, spaceOf } = await import('../../manager/images/store.ts');
      const { vmsOverImage } = await import('../../manager/images/users.ts');
      const paths = managerPaths();
      const found = getImage(paths, name, () => loadCatalogue(paths.config));
      const details = {
        ...found,
        size: await spaceOf(found.folder),
        usedBy: await vmsOverImage(paths, found),
      };
      if (json) printJson(details);
      else {
        const rows: readonly (readonly [string, string])[] = [
          ['name', details.name],
          ['title', details.title],
          ['id', details.id],
          ['source', details.source],
          ['checksum', details.checksum ?? '-'],
          ['created', details.created],
          ['disk', `${details.disk} (${details.format}, ${formatSize(details.virtualSize)})`],
          ['takes', formatSize(details.size)],
          ['kernel', details.kernel ?? 'in the disk'],
          ['initrd', details.initrd ?? (details.kernel === undefined ? 'in the disk' : '-')],
          ['command line', details.cmdline ?? '-'],
          ['user', details.user ?? '-'],
          ['guest agent', details.agent === 'included' ? 'included' : 'installed at the first boot'],
          ['used by', details.usedBy.length === 0 ? '-' : details.usedBy.join(', ')],
        ];
        const width = Math.max(...rows.map(([label]) => label.length)) + 2;
        process.stdout.write(
          rows.map(([label, value]) => `${`${label}:`.padEnd(width)}${printable(value)}\n`).join(''),
        );
      }
      done(EXIT.ok);
    });
}
