import type { Command } from 'commander';
import type { ProcessRecord } from '../../manager/vmm/record.ts';
import { describeJail } from '../../manager/vmm/jail-report.ts';
import type { VmStatus, VmStore } from '../../manager/vms/store.ts';
import { printJson } from '../disk/options.ts';
import { errorMessage, printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';
import { table } from '../table.ts';
import { NAME_HELP, openStore } from './vms.ts';

type Row = {
  readonly name: string;
  readonly state: VmStatus['state'] | 'broken';
  readonly memory?: number;
  readonly cpus?: number;
  readonly image?: string;
  readonly pid?: number;
  /** ISO 8601 */
  readonly startedAt?: string;
  /** what holds its process */
  readonly jail?: ProcessRecord['jail'];
  /** why it is broken, or has crashed */
  readonly reason?: string;
};

/** `tsvm list`: all VMs. */
export function addList(program: Command, done: Done): void {
  addVerb(program, 'list', 'list VMs', ['tsvm list', 'tsvm list --json | jq -r .[].name', 'tsvm list -q'])
    .alias('ls')
    .option('-q, --quiet', 'print names only')
    .option('--json', 'print a JSON array')
    .action(async (flags: { readonly quiet?: true; readonly json?: true }) => {
      const store = openStore();
      await store.sweep();
      const rows = store.names().map((name) => rowOf(store, name));
      if (flags.quiet) process.stdout.write(rows.map(({ name }) => `${name}\n`).join(''));
      else if (flags.json) printJson(rows);
      else if (rows.length === 0) process.stdout.write('There are no VMs; `tsvm create` makes one.\n');
      else process.stdout.write(table(['NAME', 'STATE', 'CPUS', 'MEMORY', 'IMAGE', ''], rows.map(cells)));
      done(EXIT.ok);
    });
}

/** `tsvm info`: what one VM is, and does. */
export function addInfoVm(program: Command, done: Done): void {
  addVerb(program, 'info', 'show a VM', ['tsvm info web', 'tsvm info --json web | jq .settings.vm.memory'])
    .alias('inspect')
    .argument('<name>', NAME_HELP)
    .option('--json', 'print a JSON object')
    .action((name: string, { json }: { readonly json?: true }) => {
      const store = openStore();
      const row = rowOf(store, name);
      const folder = store.folderOf(name);
      if (json) {
        const settings = row.state === 'broken' ? undefined : store.settings(name);
        printJson({ ...row, folder, ...(settings && { settings }) });
      } else {
        const { jail, ...plain } = row;
        const held = jail === undefined || jail === 'off' ? jail : describeJail(jail);
        const memory = row.memory && formatSize(row.memory);
        const lines = Object.entries({ ...plain, memory, jail: held, folder });
        const shown = lines.filter(([, value]) => value !== undefined);
        process.stdout.write(
          shown.map(([key, value]) => `${`${key}:`.padEnd(11)}${printable(String(value))}\n`).join(''),
        );
      }
      done(EXIT.ok);
    });
}

function rowOf(store: VmStore, name: string): Row {
  const { state, record } = store.status(name);
  const running = state === 'running';
  const end = record?.end;
  const crash = state === 'crashed' ? (end?.message ?? 'its process was killed') : undefined;
  const life = {
    ...(running &&
      record !== undefined && {
        pid: record.pid,
        startedAt: new Date(record.startedAt).toISOString(),
        ...(record.jail !== undefined && { jail: record.jail }),
      }),
    ...(crash !== undefined && { reason: crash }),
  };
  try {
    const { vm } = store.settings(name);
    const { memory, cpus, image } = vm;
    return { name, state, memory, cpus, ...(image !== undefined && { image }), ...life };
  } catch (error) {
    return { name, state: 'broken', ...life, reason: errorMessage(error) };
  }
}

const cells = ({ name, state, cpus, memory, image, reason }: Row): string[] => [
  name,
  state,
  cpus === undefined ? '' : String(cpus),
  memory === undefined ? '' : formatSize(memory),
  image ?? '',
  reason ?? '',
];
