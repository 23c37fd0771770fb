import { once } from 'node:events';
import type { Command } from 'commander';
import type { VmConnection } from '../../manager/vms/lifecycle.ts';
import { commandExitCode, EXIT } from '../exit-codes.ts';
import { UsageError } from '../errors.ts';
import { SIGNALS } from '../signals.ts';
import { enterRawMode } from '../terminal.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

type ExecFlags = CommandFlags & { readonly wait: number };

const EXAMPLES = [
  'tsvm exec web -- uname -a',
  'tsvm exec -i web -- tar -xC /srv < site.tar',
  'tsvm exec -it web -- top',
];
const HELP = `
The command is run by the guest agent (qemu-guest-agent), as root. It is no shell line. Its exit status is tsvm's, 128
and the signal's number where one has ended it. What ends tsvm ends the command.`;

const LONGEST = 86_400;
/** A login shell of whatever kind the guest has. */
export const SHELL = [
  '/bin/sh',
  '-c',
  'if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi',
] as const;

/** `tsvm exec`: runs a command in a VM. */
export function addExec(program: Command, done: Done): void {
  addVerb(program, 'exec', 'run a command in a VM', EXAMPLES)
    .argument('<name>', NAME_HELP)
    .argument('<command...>', 'command and its arguments')
    .option('-i, --interactive', 'give the command standard input')
    .option('-t, --tty', 'give the command a terminal')
    .option('--wait <seconds>', 'how long the guest may take to come up', wholeNumber(1, LONGEST), 60)
    .option('--timeout <seconds>', 'kill the command after this time', wholeNumber(1, LONGEST))
    .passThroughOptions()
    .allowExcessArguments(true)
    .addHelpText('after', HELP)
    .action(async (name: string, words: readonly string[], flags: ExecFlags) => {
      const command = words[0] === '--' ? words.slice(1) : words;
      if (command.length === 0) throw new UsageError('a command is needed', "see 'tsvm exec --help'");
      done(await execute(name, command, flags));
    });
}

/** `tsvm shell`: a login shell. */
export function addShell(program: Command, done: Done): void {
  addVerb(program, 'shell', 'open a shell in a VM', ['tsvm shell web', 'echo "uname -a" | tsvm shell web'])
    .argument('<name>', NAME_HELP)
    .option('--wait <seconds>', 'how long the guest may take to come up', wholeNumber(1, LONGEST), 60)
    .action(async (name: string, { wait }: { readonly wait: number }) => {
      const terminal = process.stdin.isTTY && process.stdout.isTTY;
      done(await execute(name, SHELL, { interactive: true, wait, ...(terminal && { tty: true }) }));
    });
}

async function execute(name: string, words: readonly string[], flags: ExecFlags): Promise<number> {
  const { VmConnection } = await import('../../manager/vms/lifecycle.ts');
  const left = new AbortController();
  const leaveBy = Object.entries(SIGNALS).map(([signal, code]) => [signal, () => left.abort(code)] as const);
  for (const [signal, leave] of leaveBy) process.once(signal, leave);
  // Nobody reads any more: `main` says so.
  process.stdout.once('error', () => left.abort(EXIT.ok));
  try {
    const store = openStore();
    store.folderOf(name);
    return await runCommand(() => new VmConnection(store, name), words, flags, left.signal);
  } catch (error) {
    if (left.signal.aborted) return left.signal.reason as number;
    throw error;
  } finally {
    for (const [signal, leave] of leaveBy) process.off(signal, leave);
  }
}

export type CommandFlags = {
  readonly interactive?: true;
  readonly tty?: true;
  /** seconds */
  readonly timeout?: number;
  /** how long the guest may take to come up, in seconds; default a minute */
  readonly wait?: number;
};

/**
 * Runs a command in the guest of a VM with this process's standard streams.
 * @param connect to the VM
 * @param signal ends it
 * @returns its exit status, as shells have it
 */
export async function runCommand(
  connect: () => VmConnection,
  words: readonly string[],
  flags: CommandFlags,
  signal: AbortSignal,
): Promise<number> {
  const [command = '', ...args] = words;
  const { stdin, stdout } = process;
  const { VmExec } = await import('../../manager/vms/exec.ts');
  // Of what is no terminal nothing is known.
  const [columns, rows] = stdout.isTTY ? [stdout.columns, stdout.rows] : [80, 24];
  const run = new VmExec(connect, command, args, {
    signal,
    ...(flags.wait !== undefined && { wait: flags.wait * 1000 }),
    ...(flags.interactive && { input: stdin }),
    ...(flags.timeout !== undefined && { timeout: flags.timeout * 1000 }),
    ...(flags.tty && { terminal: { name: process.env['TERM'] ?? 'dumb', columns, rows } }),
  });
  const raw = flags.tty && flags.interactive && stdin.isTTY ? enterRawMode(stdin, process) : undefined;
  try {
    for await (const { stream, bytes } of run) {
      const output = process[stream];
      if (!output.write(bytes)) await once(output, 'drain', { signal });
    }
    return commandExitCode(await run);
  } finally {
    raw?.restore();
  }
}
