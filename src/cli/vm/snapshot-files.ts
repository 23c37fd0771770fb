/** Snapshots as files that other hosts can read. */
import { createReadStream, createWriteStream, openSync } from 'node:fs';
import type { Command } from 'commander';
import { NewFile } from '../../storage/new-file.ts';
import { printJson } from '../disk/options.ts';
import { printable, UsageError } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { whileShown } from '../progress.ts';
import { addVerb, type Done } from '../verb.ts';
import { NAME_HELP, openStore, SNAPSHOT_HELP } from './vms.ts';

type ExportFlags = { readonly force?: true; readonly quiet?: true };
type ImportFlags = { readonly quiet?: true; readonly json?: true };

export function addExport(snapshot: Command, done: Done): void {
  addVerb(snapshot, 'export', 'write a snapshot to one file', [
    'tsvm snapshot export web fresh web-fresh.tar.gz',
    'tsvm snapshot export web fresh - | ssh other tsvm snapshot import - web',
  ])
    .argument('<name>', NAME_HELP)
    .argument('<snapshot>', SNAPSHOT_HELP)
    .argument('<file>', 'to write, or - for standard output')
    .option('-f, --force', 'replace a file that is there')
    .option('-q, --quiet', 'show no progress')
    .addHelpText(
      'after',
      `
The file is a gzipped tar archive with all that the VM needs: disks without what is empty, whatever they lie on, memory,
settings, kernel, and checksums.`,
    )
    .action(async (name: string, which: string, file: string, { force, quiet }: ExportFlags) => {
      const { exportSnapshot } = await import('../../manager/snapshots/export.ts');
      const store = openStore();
      const write = (target: NodeJS.WritableStream): Promise<void> =>
        whileShown(
          `exporting ${name}@${which}`,
          (tell) => exportSnapshot(store, name, which, target, { onProgress: (share) => tell(share) }),
          quiet !== true,
        );
      if (file === '-') {
        if (process.stdout.isTTY)
          throw new UsageError('a terminal is no place for an archive', 'name a file');
        await write(process.stdout);
      } else {
        const target = new NewFile(file, force === true);
        try {
          await write(createWriteStream('', { fd: target.fd, autoClose: false }));
          target.publish();
        } finally {
          target.discard();
        }
      }
      done(EXIT.ok);
    });
}

export function addImport(snapshot: Command, done: Done): void {
  addVerb(snapshot, 'import', 'make a VM of such a file', [
    'tsvm snapshot import web-fresh.tar.gz',
    'tsvm snapshot import web-fresh.tar.gz web2 && tsvm start web2',
  ])
    .argument('<file>', 'that `tsvm snapshot export` has written, or - for standard input')
    .argument('[name]', 'of the new VM (default: what it was called)')
    .option('-q, --quiet', 'print nothing')
    .option('--json', 'print a JSON object')
    .addHelpText(
      'after',
      `
The VM has the snapshot, and is as it was then: with memory it goes on from there when it is started. Of its settings
those that lead to the other host are left out: shared folders, published ports, taps.`,
    )
    .action(async (file: string, name: string | undefined, { quiet, json }: ImportFlags) => {
      const { importSnapshot } = await import('../../manager/snapshots/import.ts');
      const source = file === '-' ? process.stdin : createReadStream('', { fd: openSync(file, 'r') });
      const imported = await whileShown(`importing ${printable(file)}`, () =>
        importSnapshot(openStore(), source, name),
      );
      for (const each of imported.left) process.stderr.write(`tsvm: left out: ${printable(each)}\n`);
      if (json) printJson(imported);
      else if (!quiet) process.stdout.write(`${imported.name}\n`);
      done(EXIT.ok);
    });
}
