import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { VmMetrics } from '../../manager/control/types.ts';
import type { VmStore } from '../../manager/vms/store.ts';
import { formatSize } from '../../manager/sizes.ts';
import { printJson } from '../disk/options.ts';
import { endedBySignals } from '../signals.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';
import { table } from '../table.ts';
import { openStore } from './vms.ts';

type Sample = { readonly name: string; readonly at: number; readonly metrics: VmMetrics };
type TopFlags = { readonly once?: true; readonly json?: true; readonly interval: number };

const EXAMPLES = ['tsvm top', 'tsvm top --once', 'tsvm top --json'];
const CLEAR = '\x1b[H\x1b[2J';

/** `tsvm top`: what running VMs use. */
export function addTop(program: Command, done: Done): void {
  addVerb(program, 'top', 'show what running VMs use', EXAMPLES)
    .option('--once', 'print it once, measured over the interval')
    .option('--json', 'print a JSON array, once')
    .option('--interval <seconds>', 'time between two looks', wholeNumber(1, 3600), 1)
    .action(async ({ once, json, interval }: TopFlags) => {
      const store = openStore();
      const isScreen = process.stdout.isTTY && !once && !json;
      await endedBySignals(async () => {
        let before = await look(store);
        do {
          await sleep(interval * 1000);
          const now = await look(store);
          const rows = now.map((sample) =>
            rowOf(
              sample,
              before.find(({ name }) => name === sample.name),
            ),
          );
          if (json) printJson(rows);
          else process.stdout.write(`${isScreen ? CLEAR : ''}${tableOf(rows)}`);
          before = now;
        } while (isScreen);
      });
      done(EXIT.ok);
    });
}

/** Bytes are per second, exits too. */
type Row = {
  name: string;
  cpu: number;
  memory: number;
  resident: number;
  read: number;
  written: number;
  received: number;
  sent: number;
  exits: number;
};

async function look(store: VmStore): Promise<Sample[]> {
  const { VmConnection } = await import('../../manager/vms/lifecycle.ts');
  const samples = await Promise.all(
    store.names().map(async (name): Promise<Sample[]> => {
      try {
        using connection = new VmConnection(store, name);
        return [{ name, at: performance.now(), metrics: await connection.control.metrics() }];
      } catch {
        // It does not run, or has ended just now.
        return [];
      }
    }),
  );
  return samples.flat();
}

/** @returns CPU in percent of one, exits a second */
function rowOf({ name, at, metrics }: Sample, before: Sample | undefined): Row {
  const seconds = before === undefined ? Infinity : (at - before.at) / 1000;
  const cpuOf = ({ cpuTime }: VmMetrics): number => cpuTime.user + cpuTime.system;
  const exitsOf = ({ exits }: VmMetrics): number =>
    Object.values(exits).reduce((sum, count) => sum + count, 0);
  const sum = <T>(all: readonly T[], of: (each: T) => number): number =>
    all.reduce((total, each) => total + of(each), 0);
  const rate = (of: (metrics: VmMetrics) => number): number =>
    before === undefined ? 0 : Math.max(0, of(metrics) - of(before.metrics)) / seconds;
  return {
    name,
    cpu: Number((100 * rate(cpuOf)).toFixed(1)),
    memory: metrics.memory.size,
    resident: metrics.memory.resident,
    read: Math.round(rate(({ disks }) => sum(disks, ({ readBytes }) => readBytes))),
    written: Math.round(rate(({ disks }) => sum(disks, ({ writtenBytes }) => writtenBytes))),
    received: Math.round(rate(({ networks }) => sum(networks, ({ receivedBytes }) => receivedBytes))),
    sent: Math.round(rate(({ networks }) => sum(networks, ({ sentBytes }) => sentBytes))),
    exits: Math.round(rate(exitsOf)),
  };
}

function tableOf(rows: readonly Row[]): string {
  return table(
    ['NAME', 'CPU%', 'MEMORY', 'RESIDENT', 'READ/S', 'WRITE/S', 'RX/S', 'TX/S', 'EXITS/S'],
    rows.map(({ name, cpu, memory, resident, read, written, received, sent, exits }) => [
      name,
      cpu.toFixed(1),
      ...[memory, resident, read, written, received, sent].map(formatSize),
      String(exits),
    ]),
  );
}
