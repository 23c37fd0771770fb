import type { Command } from 'commander';

import type { PullProgress } from '../../manager/images/pull.ts';
import { printJson } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { whileShown, type Tell } from '../progress.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';

type PullFlags = { readonly json?: true; readonly quiet?: true };

const EXAMPLES = ['tsvm image pull ubuntu', 'tsvm image pull debian:13 almalinux'];

const HELP = `
What is downloaded counts only when its checksum is the distributor's. A download that was cut goes on where it stopped,
also in a later command. Where another command is at the same image, this one waits for it.`;

/** `tsvm image pull`: images from their distributors. */
export function addPull(image: Command, done: Done): void {
  addVerb(image, 'pull', 'download what an image is now, unless it is here', EXAMPLES)
    .argument('<image...>', 'names of images')
    .option('-q, --quiet', 'print identifiers only, and no progress')
    .option('--json', 'print a JSON array')
    .addHelpText('after', HELP)
    .action(async (names: readonly string[], { json, quiet }: PullFlags) => {
      const { managerPaths } = await import('../../manager/paths.ts');
      const { loadCatalogue } = await import('../../manager/images/catalogue.ts');
      const { pullImage } = await import('../../manager/images/pull.ts');
      const paths = managerPaths();
      const catalogue = loadCatalogue(paths.config);
      const results = [];
      for (const name of names) {
        const pull = (tell: Tell) =>
          pullImage(paths, name, {
            catalogue,
            ...(quiet !== true && {
              onProgress: (progress: PullProgress) => tell(...progressOf(progress)),
            }),
          });
        const { image, isNew } = await whileShown(`pulling ${name}`, pull, quiet !== true);
        results.push({ ...image, isNew });
        if (quiet) process.stdout.write(`${image.id}\n`);
        else if (!json)
          process.stdout.write(`${name}: ${image.id} ${isNew ? 'is here now' : 'was here already'}\n`);
      }
      if (json) printJson(results);
      done(EXIT.ok);
    });
}

/** What a bar says of a pull, here and in the verbs that pull on the way. */
export function progressOf({ file, bytes, total, rate, waiting }: PullProgress): Parameters<Tell> {
  const size = total === undefined ? formatSize(bytes) : `${formatSize(bytes)} of ${formatSize(total)}`;
  const left = total === undefined || rate === 0 ? '' : `, ${duration((total - bytes) / rate)} left`;
  const speed = rate === 0 ? '' : `, ${formatSize(rate)}/s${left}`;
  const who = waiting ? ' (by another command)' : '';
  return [total === undefined ? undefined : bytes / Math.max(1, total), `${size}${speed}${who} ${file}`];
}

function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.ceil(whole / 60)} min`;
  return `${Math.floor(whole / 3600)} h ${Math.ceil((whole % 3600) / 60)} min`;
}
