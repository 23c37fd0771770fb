import type { Command } from 'commander';
import { readEvents, type VmEvent } from '../../manager/events.ts';
import { checkVmName } from '../../manager/vms/name.ts';
import { managerPaths } from '../../manager/paths.ts';
import { printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { endedBySignals } from '../signals.ts';
import { addVerb, argument, type Done } from '../verb.ts';

type EventFlags = { readonly json?: true; readonly follow?: true; readonly since?: number };

const EXAMPLES = ['tsvm events', 'tsvm events --since 10m web', 'tsvm events -f --json | jq -r .event'];
const UNITS = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `tsvm events`: what has happened to VMs. */
export function addEvents(program: Command, done: Done): void {
  addVerb(program, 'events', 'show what has happened to VMs', EXAMPLES)
    .argument('[name]', 'name of one VM, there or not (default: all)')
    .option('-f, --follow', 'go on with what comes, until a signal')
    .option('--since <time>', 'from then on: 30s, 10m, 2h or 7d ago, or a date', argument(parseSince))
    .option('--json', 'print each as a line of JSON')
    .action(async (name: string | undefined, { json, follow, since }: EventFlags) => {
      const filter = {
        ...(name !== undefined && { name: checkVmName(name) }),
        ...(follow !== undefined && { follow }),
        ...(since !== undefined && { since }),
      };
      await endedBySignals(async () => {
        for await (const event of readEvents(managerPaths().root, filter))
          process.stdout.write(json ? `${JSON.stringify(event)}\n` : lineOf(event));
      });
      done(EXIT.ok);
    });
}

function lineOf({ time, name, event, detail }: VmEvent): string {
  const when = new Date(time).toISOString();
  return `${when} ${printable(name)} ${event}${detail === undefined ? '' : `: ${printable(detail)}`}\n`;
}

/** @returns milliseconds since 1970 @throws RangeError */
function parseSince(text: string): number {
  const ago = /^(\d{1,9})([smhd])$/.exec(text);
  const time =
    ago === null ? Date.parse(text) : Date.now() - Number(ago[1]) * UNITS[ago[2] as keyof typeof UNITS];
  if (Number.isNaN(time)) throw new RangeError('not a time such as 10m, 2h, 7d or 2026-01-31T12:00:00Z');
  return time;
}
