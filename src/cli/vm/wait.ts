import type { Command } from 'commander';
import { parseWaitTarget, waitFor, WaitError, type WaitTarget } from '../../manager/vms/wait.ts';
import { errorMessage } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, argument, type Done, wholeNumber } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

const EXAMPLES = [
  'tsvm wait web',
  'tsvm wait --for login --timeout 120 web',
  'tsvm wait --for "/Reached target .*Multi-User/" web',
  'tsvm wait --for stopped web',
];
const LONGEST = 86_400;

/** `tsvm wait`: until a VM has come to something. */
export function addWait(program: Command, done: Done): void {
  addVerb(program, 'wait', 'wait until a VM has come to something', EXAMPLES)
    .argument('<name>', NAME_HELP)
    .option(
      '--for <what>',
      'running, agent, login, stopped, or a /pattern/ on the console (default: agent)',
      argument(parseWaitTarget),
      'agent' satisfies WaitTarget,
    )
    .option('-t, --timeout <seconds>', 'how long to wait at most', wholeNumber(1, LONGEST), 300)
    .action(async (name: string, flags: { readonly for: WaitTarget; readonly timeout: number }) => {
      try {
        await waitFor(openStore(), name, flags.for, { timeout: flags.timeout * 1000 });
        done(EXIT.ok);
      } catch (error) {
        if (!(error instanceof WaitError)) throw error;
        // More than one line: the console's.
        const [first = '', ...rest] = error.message.split('\n');
        process.stderr.write(
          `tsvm: ${errorMessage(new Error(first))}\n${rest.map((line) => `${line}\n`).join('')}`,
        );
        done(error.code === 'EWAITTIMEOUT' ? EXIT.timeout : EXIT.failed);
      }
    });
}
