import type { Command } from 'commander';
import { EXIT } from '../exit-codes.ts';
import { UsageError } from '../errors.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

type ExecFlags = { readonly stdin?: true; readonly wait: number; readonly timeout?: number };

const EXAMPLES = ['tsvm exec web -- uname -a', 'echo hello | tsvm exec -i web -- tee /root/hello'];
const HELP = `
The command is run by the guest agent (qemu-guest-agent), as root. It is no shell line. Its output comes when it has
ended, at most 16 MiB of each stream. Its exit status is tsvm's, 128 and the signal's number where one has ended it.`;

/** As shells have it. */
const SIGNAL_BASE = 128;
const LONGEST = 86_400;

/** `tsvm exec`: runs a command in a VM. */
export function addExec(program: Command, done: Done): void {
  addVerb(program, 'exec', 'run a command in a VM', EXAMPLES)
    .argument('<name>', NAME_HELP)
    .argument('<command...>', 'command and its arguments')
    .option('-i, --stdin', 'give the command what standard input has, at most 16 MiB')
    .option('--wait <seconds>', 'how long the guest may take to come up', wholeNumber(1, LONGEST), 60)
    .option('--timeout <seconds>', 'kill the command after this time', wholeNumber(1, LONGEST))
    .passThroughOptions()
    .allowExcessArguments(true)
    .addHelpText('after', HELP)
    .action(async (name: string, words: readonly string[], flags: ExecFlags) => {
      const [command, ...args] = words[0] === '--' ? words.slice(1) : words;
      if (command === undefined) throw new UsageError('a command is needed', "see 'tsvm exec --help'");
      const { VmConnection } = await import('../../manager/vms/lifecycle.ts');
      using connection = new VmConnection(openStore(), name);
      await connection.control.waitForAgent(flags.wait * 1000);
      const result = await connection.control.exec({
        command,
        args,
        ...(flags.timeout !== undefined && { timeout: flags.timeout * 1000 }),
        ...(flags.stdin && { input: (await standardInput()).toString('base64') }),
      });
      process.stdout.write(Buffer.from(result.stdout, 'base64'));
      process.stderr.write(Buffer.from(result.stderr, 'base64'));
      if (result.truncated)
        process.stderr.write('tsvm: the agent keeps no more than 16 MiB: the output above is cut off\n');
      done(result.exitCode ?? (result.signal === null ? EXIT.failed : SIGNAL_BASE + result.signal));
    });
}

async function standardInput(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
