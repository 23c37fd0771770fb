import type { Command } from 'commander';

import { UsageError } from './errors.ts';
import { commandExitCode } from './exit-codes.ts';
import { addVerb, argument, type Done } from './verb.ts';

type AgentFlags = {
  readonly wait?: number;
  readonly timeout?: number;
  readonly stdin?: true;
  readonly json?: true;
};

const EXAMPLES = [
  'tsvm agent agent.sock -- uname -a',
  'tsvm agent --wait 60 agent.sock -- systemctl is-system-running --wait',
  'echo hello | tsvm agent --stdin agent.sock -- tee /root/hello',
  'tsvm agent agent.sock                                what system the guest is',
];

const HELP = `
SOCKET is that of the port org.qemu.guest_agent.0 (see tsvm run --port), with qemu-guest-agent in the guest.
The command is no shell line; its output comes when it has ended, at most 16 MiB of each stream. Its exit status
is tsvm's, 128 and the signal's number where one has ended it.`;

const LONGEST_SECONDS = 86_400;

function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value === 0 || value > LONGEST_SECONDS) {
    throw new RangeError(`not a number of seconds above 0, at most ${LONGEST_SECONDS}`);
  }
  return value;
}

/** `tsvm agent`: runs a command in a guest through its guest agent. */
export function addAgent(program: Command, done: Done): void {
  addVerb(program, 'agent', 'run a command in a guest through its guest agent', EXAMPLES)
    .argument('<socket>', "the agent's port on the host")
    .argument('[command...]', 'command and its arguments; none: tell what system the guest is')
    .option('--wait <seconds>', 'wait so long for the guest and its agent to come up', argument(seconds))
    .option('--timeout <seconds>', 'kill the command after this time', argument(seconds))
    .option('--stdin', 'give the command what standard input has, at most 16 MiB')
    .option('--json', 'without a command: print a JSON object')
    .passThroughOptions()
    .allowExcessArguments(true)
    .addHelpText('after', HELP)
    .action(async (socket: string, words: readonly string[], flags: AgentFlags) => {
      // What comes after the socket is the command's, and commander leaves the separator in it.
      const [command, ...args] = words[0] === '--' ? words.slice(1) : words;
      if (command !== undefined && flags.json) throw new UsageError('--json is for use without a command');
      const { AgentClient } = await import('../manager/agent/client.ts');
      await using agent = new AgentClient(socket);
      if (flags.wait !== undefined) await agent.waitUntilReady({ timeout: flags.wait * 1000 });
      if (command === undefined) {
        const system = await agent.osInfo();
        process.stdout.write(
          flags.json
            ? `${JSON.stringify(system)}\n`
            : `${system.prettyName ?? 'unknown'}, ${system.kernelRelease ?? ''}\n`,
        );
        return;
      }
      const result = await agent.exec(command, args, {
        ...(flags.timeout !== undefined && { timeout: flags.timeout * 1000 }),
        ...(flags.stdin && { input: await standardInput() }),
      });
      process.stdout.write(result.stdout);
      process.stderr.write(result.stderr);
      if (result.stdoutTruncated || result.stderrTruncated) {
        process.stderr.write('tsvm: the agent keeps no more than 16 MiB: the output above is cut off\n');
      }
      done(commandExitCode(result));
    });
}

async function standardInput(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
