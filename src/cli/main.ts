/** The program of the command `tsvm` (launch/main.ts). */
import type { Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';

import { errorMessage, formatError } from './errors.ts';
import { EXIT } from './exit-codes.ts';
import { runProgram } from './program.ts';

/** How long a reader may take for the last output, in milliseconds. */
const LAST_OUTPUT_LIMIT = 1000;

function written(stream: Writable): Promise<void> {
  return new Promise((resolve) => stream.write('', () => resolve()));
}

const { stdout, stderr } = process;
let outputError: NodeJS.ErrnoException | undefined;
stdout.on('error', (error) => {
  outputError ??= error;
});
// Nobody is left to be told.
stderr.on('error', () => undefined);
process.on('uncaughtException', (error) => {
  // `exit` gives the terminal its settings back.
  const debug = process.argv.includes('--debug');
  stderr.write(formatError(new Error('internal error', { cause: error }), false));
  stderr.write(
    debug ? `${error.stack ?? ''}\n` : 'hint: --debug shows where it happened; please report it\n',
  );
  process.exit(EXIT.failed);
});

async function main(): Promise<never> {
  const outcome = await runProgram(process.argv.slice(2));
  let code = outcome.code;
  if (outcome.error !== undefined) stderr.write(formatError(outcome.error, outcome.debug));
  await Promise.race([Promise.all([written(stdout), written(stderr)]), delay(LAST_OUTPUT_LIMIT)]);
  if (outputError !== undefined && code === EXIT.ok) {
    if (outputError.code === 'EPIPE') {
      code = EXIT.brokenPipe;
    } else {
      code = EXIT.failed;
      stderr.write(`tsvm: write failed on standard output: ${errorMessage(outputError)}\n`);
    }
  }
  // Standard input, and a VM that could not be stopped in time, would keep the process alive.
  process.exit(code);
}

void main();
