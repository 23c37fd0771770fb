/** `tsvm snapshot`: what VMs were at some moment. */
import type { Command } from 'commander';
import { formatSize } from '../../manager/sizes.ts';
import type { SnapshotInfo } from '../../manager/snapshots/store.ts';
import { printJson } from '../disk/options.ts';
import { printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { whileShown } from '../progress.ts';
import { table } from '../table.ts';
import { addVerb, type Done } from '../verb.ts';
import { addExport, addImport } from './snapshot-files.ts';
import { NAME_HELP, openStore, SNAPSHOT_HELP } from './vms.ts';

const EXAMPLES = [
  'tsvm snapshot create web before-upgrade',
  'tsvm snapshot ls web',
  'tsvm restore web before-upgrade',
  'tsvm snapshot rm web before-upgrade',
];
const HELP = `
A snapshot is all that a VM was at a moment: memory, devices and disks, of one that runs; of one that does not, its disks
and settings. Nothing of a disk is copied: what it has then becomes a file that is never written to again, and the disk
goes on above it.`;

const load = () => import('../../manager/snapshots/store.ts');

export function addSnapshot(program: Command, done: Done): void {
  const snapshot = addVerb(
    program,
    'snapshot',
    'take, list and remove snapshots of VMs',
    EXAMPLES,
  ).addHelpText('after', HELP);
  for (const add of [addCreate, addList, addInfo, addRemove, addRename, addExport, addImport])
    add(snapshot, done);
}

type CreateFlags = {
  readonly live?: true;
  /** false with --no-memory */
  readonly memory: boolean;
  readonly quiesce?: true;
  readonly quiet?: true;
  readonly json?: true;
};

function addCreate(snapshot: Command, done: Done): void {
  addVerb(snapshot, 'create', 'take a snapshot of a VM', [
    'tsvm snapshot create web',
    'tsvm snapshot create --live db before-upgrade',
    'tsvm snapshot create --no-memory --quiesce db nightly',
  ])
    .argument('<name>', NAME_HELP)
    .argument('[snapshot]', 'lower-case letters, digits and dashes (default: snapshot1, snapshot2, …)')
    .option('--live', 'the guest runs on meanwhile, and stands still only for the last of its memory')
    .option('--no-memory', 'of disks only: going back to it is a boot')
    .option('--quiesce', "freeze the guest's file systems at that moment, by its agent")
    .option('-q, --quiet', 'print the name only')
    .option('--json', 'print a JSON object')
    .action(async (name: string, given: string | undefined, flags: CreateFlags) => {
      const { createSnapshot } = await import('../../manager/snapshots/create.ts');
      const taken = await createSnapshot(openStore(), name, {
        ...(given !== undefined && { name: given }),
        ...(!flags.memory && { memory: false }),
        ...(flags.live && { live: true }),
        ...(flags.quiesce && { quiesce: true }),
      });
      const { stopMs, memoryBytes, memory } = taken;
      if (flags.json) printJson(taken);
      else if (flags.quiet) process.stdout.write(`${taken.name}\n`);
      else if (memory && stopMs > 0)
        process.stdout.write(
          `${taken.name}: ${formatSize(memoryBytes)} of memory, the guest stood still for ${stopMs.toFixed(1)} ms\n`,
        );
      else process.stdout.write(`${taken.name}: ${memory ? 'with memory' : 'disks only'}\n`);
      done(EXIT.ok);
    });
}

function addList(snapshot: Command, done: Done): void {
  addVerb(snapshot, 'ls', 'list the snapshots of VMs', [
    'tsvm snapshot ls web',
    'tsvm snapshot ls --json web | jq -r ".[].name"',
  ])
    .alias('list')
    .argument('[name...]', `${NAME_HELP} (default: all that have any)`)
    .option('-q, --quiet', 'print VM@SNAPSHOT only')
    .option('--json', 'print a JSON array')
    .addHelpText(
      'after',
      `
OWN is what the disk of this host would have again without the snapshot; SHARED is what others need too: the VM's disks,
other snapshots, clones. The one with * is what the VM descends from.`,
    )
    .action(
      async (names: readonly string[], { quiet, json }: { readonly quiet?: true; readonly json?: true }) => {
        const { listSnapshots } = await load();
        const store = openStore();
        const rows: (SnapshotInfo & { readonly vm: string })[] = [];
        for (const vm of names.length > 0 ? names : store.names()) {
          const { snapshots, damaged } = await listSnapshots(store, vm);
          rows.push(...snapshots.map((each) => ({ vm, ...each })));
          for (const { reason } of damaged) process.stderr.write(`tsvm: '${vm}': ${printable(reason)}\n`);
        }
        if (json) printJson(rows);
        else if (quiet) process.stdout.write(rows.map(({ vm, name }) => `${vm}@${name}\n`).join(''));
        else if (rows.length === 0)
          process.stdout.write('There are no snapshots; `tsvm snapshot create` takes one.\n');
        else
          process.stdout.write(
            table(
              ['VM', 'SNAPSHOT', 'CREATED', 'OF', 'OWN', 'SHARED'],
              rows.map(({ vm, ...row }) => [vm, ...cells(row)]),
            ),
          );
        done(EXIT.ok);
      },
    );
}

const cells = ({ name, depth, current, created, memory, own, shared }: SnapshotInfo): string[] => [
  `${'  '.repeat(depth)}${name}${current ? ' *' : ''}`,
  created.replace('T', ' ').slice(0, 19),
  memory ? 'memory, disks' : 'disks',
  formatSize(own),
  formatSize(shared),
];

function addInfo(snapshot: Command, done: Done): void {
  addVerb(snapshot, 'info', 'show a snapshot', ['tsvm snapshot info web before-upgrade'])
    .argument('<name>', NAME_HELP)
    .argument('<snapshot>', SNAPSHOT_HELP)
    .option('--json', 'print a JSON object')
    .action(async (name: string, which: string, { json }: { readonly json?: true }) => {
      const { getSnapshot, listSnapshots } = await load();
      const store = openStore();
      getSnapshot(store, name, which);
      const { snapshots } = await listSnapshots(store, name);
      const found = snapshots.find((each) => each.name === which)!;
      if (json) printJson({ vm: name, ...found });
      else {
        const { disks, own, shared, ram, memory } = found;
        const { id, created, parent, current, tsvm, live, quiesced, stopMs, image } = found;
        const lines = Object.entries({
          ...{ name: which, id, created, parent, current, image },
          memory: memory ? formatSize(ram) : 'no',
          ...(memory && { live, quiesced, stood: `still for ${stopMs.toFixed(1)} ms` }),
          disks: disks.map(({ disk, layer }) => `${disk}: ${layer}`).join(', '),
          own: formatSize(own),
          shared: formatSize(shared),
          tsvm,
        }).filter(([, value]) => value !== undefined);
        process.stdout.write(
          lines.map(([key, value]) => `${`${key}:`.padEnd(11)}${printable(String(value))}\n`).join(''),
        );
      }
      done(EXIT.ok);
    });
}

function addRemove(snapshot: Command, done: Done): void {
  addVerb(snapshot, 'rm', 'remove snapshots', ['tsvm snapshot rm web before-upgrade'])
    .alias('delete')
    .argument('<name>', NAME_HELP)
    .argument('<snapshot...>', 'names of the snapshots')
    .addHelpText(
      'after',
      `
What was taken after one stays as it is: its children become those of its parent. Layers that only one file
needs are joined with it while the VM is off: of one that runs, when it is stopped.`,
    )
    .action(async (name: string, names: readonly string[]) => {
      const { removeSnapshots } = await load();
      await whileShown('joining layers', (tell) =>
        removeSnapshots(openStore(), name, names, (share) => tell(share)),
      );
      done(EXIT.ok);
    });
}

function addRename(snapshot: Command, done: Done): void {
  addVerb(snapshot, 'rename', 'give a snapshot another name', ['tsvm snapshot rename web snapshot1 fresh'])
    .argument('<name>', NAME_HELP)
    .argument('<snapshot>', SNAPSHOT_HELP)
    .argument('<new>', 'its new name')
    .action(async (name: string, from: string, to: string) => {
      const { renameSnapshot } = await load();
      await renameSnapshot(openStore(), name, from, to);
      done(EXIT.ok);
    });
}
