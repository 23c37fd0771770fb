import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { Command } from 'commander';
import { shellQuote } from '../../manager/shell-quote.ts';
import { VmStoreError } from '../../manager/vms/store.ts';
import { commandExitCode } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

type SshFlags = { readonly user?: string; readonly print?: true };

const EXAMPLES = [
  'tsvm ssh web',
  'tsvm ssh web -- uname -a',
  'tsvm ssh web -- -L 8080:localhost:80 -N',
  'eval "$(tsvm ssh --print web) uptime"',
];
const HELP = `
ARGS go to ssh behind the host: options of its own, or a command. Port 22 of the guest has to be published, as with
\`tsvm create --publish 2222:22\`. Without --ssh-key, \`tsvm create\` gives the guest a key of the data directory, by which
this logs in; the guest's host key is that of the first connection, and is forgotten with the VM.`;
/** As ssh has it for errors of its own. */
const NOT_FOUND = 127;

/** `tsvm ssh`: the host's ssh, with what it needs to reach a VM. */
export function addSsh(program: Command, done: Done): void {
  addVerb(program, 'ssh', 'log in to a VM by ssh', EXAMPLES)
    .argument('<name>', NAME_HELP)
    .argument('[args...]', 'more arguments of ssh')
    .option('-l, --user <name>', "who logs in (default: the image's user)")
    .option('--print', 'print the command line, and do nothing')
    .passThroughOptions()
    .allowExcessArguments(true)
    .addHelpText('after', HELP)
    .action(async (name: string, words: readonly string[], { user, print }: SshFlags) => {
      const { sshArguments, sshTargetOf } = await import('../../manager/ssh/command.ts');
      const store = openStore();
      const settings = store.settings(name);
      const target = sshTargetOf(name, settings);
      const args = sshArguments(store.folderOf(name), settings, target, {
        args: words[0] === '--' ? words.slice(1) : words,
        ...(user !== undefined && { user }),
      });
      if (print) {
        process.stdout.write(`${['ssh', ...args].map(quoted).join(' ')}\n`);
        return;
      }
      if (store.status(name).state !== 'running')
        throw new VmStoreError(
          'ESTOPPED',
          `the VM '${name}' is not running`,
          `start it with \`tsvm start ${name}\``,
        );
      done(await runSsh(args));
    });
}

function runSsh(args: readonly string[]): Promise<number> {
  // What a terminal sends goes to ssh as well, which knows what to do.
  const ignore = (): void => undefined;
  const signals = ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP'] as const;
  return new Promise<number>((resolve, reject) => {
    const child = spawn('ssh', args, { stdio: 'inherit' });
    for (const signal of signals)
      process.on(signal, signal === 'SIGTERM' ? () => child.kill(signal) : ignore);
    child.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') return reject(error);
      process.stderr.write(
        'tsvm: there is no ssh on this host\nhint: install it (openssh-client on Debian and Ubuntu)\n',
      );
      resolve(NOT_FOUND);
    });
    child.once('close', (code, signal) =>
      resolve(
        commandExitCode({
          exitCode: code ?? undefined,
          signal: signal === null ? undefined : constants.signals[signal],
        }),
      ),
    );
  });
}

/** A word for a shell, as short as it can be. */
function quoted(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : shellQuote(word);
}
