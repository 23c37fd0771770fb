/** The verbs of a VM's life with the smallest guest, each a process of the built command line. */
import { VmHome } from '../../test/support/vm-home.ts';
import { summarize } from '../support/statistics.ts';

const NAME = 'bench';

export async function benchVerbs({
  runs,
  json,
}: {
  readonly runs: number;
  readonly json?: true;
}): Promise<void> {
  const home = new VmHome();
  const times = new Map<string, number[]>();
  const timed = async (name: string, work: () => Promise<unknown>): Promise<void> => {
    const start = performance.now();
    await work();
    times.set(name, [...(times.get(name) ?? []), performance.now() - start]);
  };
  try {
    // The guest is assembled once.
    await home.create(NAME);
    await home.ok('delete', NAME);
    for (let round = 0; round < runs; round++) {
      await timed('--version', () => home.ok('--version'));
      await timed('create', () => home.create(NAME));
      await timed('start', () => home.ok('start', NAME));
      await timed('wait for a word on the console', () => home.ok('wait', '--for', '/echo: ready/', NAME));
      await timed('list', () => home.ok('list'));
      await timed('info', () => home.ok('info', NAME));
      await timed('snapshot create', () => home.ok('snapshot', 'create', NAME, 'one'));
      await timed('restore', () => home.ok('restore', '--force', NAME, 'one'));
      await timed('clone --start', () => home.ok('clone', `${NAME}@one`, 'copy', '--start'));
      await home.ok('delete', '--force', 'copy');
      await timed('suspend', () => home.ok('suspend', NAME));
      await timed('start, where it was suspended', () => home.ok('start', NAME));
      await timed('stop', () => home.ok('stop', '--force', NAME));
      await timed('delete', () => home.ok('delete', NAME));
    }
  } finally {
    home.remove();
  }
  const rows = [...times].map(([name, values]) => summarize(name, values, runs));
  if (json) console.log(JSON.stringify({ guest: 'echo', runs, rows }, null, 2));
  else {
    console.log('each verb as a process, with a guest that needs no kernel; milliseconds');
    console.table(rows);
  }
}
