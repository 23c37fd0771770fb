import type { Command } from 'commander';
import type { CopyOptions, CopyResult } from '../../manager/copy/copy.ts';
import { formatSize } from '../../manager/sizes.ts';
import { EXIT } from '../exit-codes.ts';
import { printable, UsageError } from '../errors.ts';
import { whileShown } from '../progress.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';

type CopyFlags = {
  readonly followLink?: true;
  readonly owner?: string;
  readonly wait: number;
  readonly quiet?: true;
  readonly json?: true;
};

const EXAMPLES = [
  'tsvm cp site.conf web:/etc/nginx/conf.d/',
  'tsvm cp web:/var/log ./logs',
  'tsvm cp --owner debian src/. web:/home/debian/src',
  'mysqldump shop | tsvm cp - db:/root/shop.sql',
];
const HELP = `
NAME:PATH is in the guest of a VM, from its root folder on. In a folder that is there copies have the names of what they
are copies of, else that of DST; FOLDER/. is what is in a folder, without itself. Folders become one with those that are
there. - is standard input or output, for one file. A path of this host with a colon in it begins with / or ./.

Permissions, times and symbolic links are kept, the latter as links wherever they lead. Copies belong to root in the
guest, and to you here, where set-id bits are dropped. What is there is replaced when all has come; what was begun and
not finished is removed. The guest needs its agent and tar.`;
const LONGEST = 86_400;

/** What a user calls something to copy. */
type Place =
  | { readonly kind: 'guest'; readonly name: string; readonly path: string }
  | { readonly kind: 'host'; readonly path: string }
  | { readonly kind: 'stream' };

/** `tsvm cp`: files and folders into a VM, and out of it. */
export function addCopy(program: Command, done: Done): void {
  addVerb(program, 'cp', 'copy files and folders into a VM or out of it', EXAMPLES)
    .alias('copy')
    .argument('<src...>', 'files and folders, and then where they go: FILE, NAME:PATH or -')
    .option('-r, --recursive', 'taken for the habit of it: folders are copied whole anyhow')
    .option('-L, --follow-link', 'copy what a link leads to, where SRC is one')
    .option('--owner <user[:group]>', 'who copies belong to in the guest (default: root)')
    .option('--wait <seconds>', 'how long the guest may take to come up', wholeNumber(1, LONGEST), 60)
    .option('-q, --quiet', 'show no progress')
    .option('--json', 'print what was copied as a JSON array')
    .usage('[options] <src...> <dst>')
    .addHelpText('after', HELP)
    .action(async (words: readonly string[], flags: CopyFlags) => {
      const places = words.map(placeOf);
      const target = places.at(-1);
      const sources = places.slice(0, -1);
      if (target === undefined || sources.length === 0)
        throw new UsageError('a source and a target are needed', "see 'tsvm cp --help'");
      if (sources.length > 1 && target.kind !== 'stream' && !target.path.endsWith('/'))
        throw new UsageError(
          'several sources go into a folder',
          `write '${words.at(-1)}/' for the folder that they go to`,
        );
      const results: (CopyResult & { readonly source: string })[] = [];
      for (const [i, source] of sources.entries())
        results.push({ source: words[i]!, ...(await copy(source, target, words[i]!, flags)) });
      if (flags.json) process.stdout.write(`${JSON.stringify(results, undefined, 2)}\n`);
      for (const path of results.flatMap(({ skipped }) => skipped))
        process.stderr.write(
          `tsvm: not copied: ${printable(path)}: neither file, folder nor symbolic link\n`,
        );
      done(EXIT.ok);
    });
}

async function copy(source: Place, target: Place, label: string, flags: CopyFlags): Promise<CopyResult> {
  const { Vm } = await import('../../manager/vms/vm.ts');
  return await whileShown(
    `copying ${printable(label)}`,
    (tell) => {
      const started = performance.now();
      const options: CopyOptions = {
        wait: flags.wait * 1000,
        ...(flags.followLink && { followLink: true }),
        ...(flags.owner !== undefined && { owner: flags.owner }),
        ...(!flags.quiet && {
          onProgress: ({ bytes, total }) => {
            const rate = bytes / Math.max(0.001, (performance.now() - started) / 1000);
            const size =
              total === undefined ? formatSize(bytes) : `${formatSize(bytes)} of ${formatSize(total)}`;
            tell(
              total === undefined ? undefined : bytes / Math.max(1, total),
              `${size}, ${formatSize(rate)}/s`,
            );
          },
        }),
      };
      if (source.kind !== 'guest' && target.kind === 'guest')
        return Vm.get(target.name).copyIn(
          source.kind === 'stream' ? process.stdin : source.path,
          target.path,
          options,
        );
      if (source.kind === 'guest' && target.kind !== 'guest')
        return Vm.get(source.name).copyOut(
          source.path,
          target.kind === 'stream' ? process.stdout : target.path,
          options,
        );
      throw source.kind === 'guest'
        ? new UsageError('what goes from VM to VM goes by way of this host', 'copy it here first')
        : new UsageError('neither side is a VM', 'write NAME:PATH for a path in the guest of a VM');
    },
    !flags.quiet,
  );
}

function placeOf(word: string): Place {
  if (word === '-') return { kind: 'stream' };
  // A path with a slash before its colon is one of this host.
  const [, name, path] = /^([^/.:][^/:]*):(.*)$/s.exec(word) ?? [];
  if (name === undefined || path === undefined) return { kind: 'host', path: word };
  if (path === '')
    throw new UsageError(`'${word}' has no path after its colon`, `'${word}/' is its root folder`);
  return { kind: 'guest', name, path };
}
