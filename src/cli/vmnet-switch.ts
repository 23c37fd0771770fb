import type { Command } from 'commander';

import { SWITCH_VERB } from '../net/vmnet-network.ts';
import { EXIT } from './exit-codes.ts';
import type { Done } from './verb.ts';

/** `tsvm vmnet-switch NAME`: the process that VMs on a network start for it; nobody types it. */
export function addVmnetSwitch(program: Command, done: Done): void {
  program
    .command(`${SWITCH_VERB} <name>`, { hidden: true })
    .summary('serve a network of VMs until the last one has left')
    .action(async (name: string) => {
      const { serveVmnet } = await import('../net/vmnet/serve.ts');
      const { vmnetPlace } = await import('../net/vmnet/place.ts');
      const end = new AbortController();
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => end.abort());
      const log = (line: string): void => {
        process.stdout.write(`${new Date().toISOString()} ${name}: ${line}\n`);
      };
      await serveVmnet(vmnetPlace(name), { log, signal: end.signal });
      done(EXIT.ok);
    });
}
