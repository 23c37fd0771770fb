import { Command, CommanderError } from 'commander';

import { addAgent } from './agent.ts';
import { addCompletion } from './completion.ts';
import { addDisk } from './disk/disk.ts';
import { addDoctor } from './doctor.ts';
import { UsageError } from './errors.ts';
import { EXIT, exitCodeHelp } from './exit-codes.ts';
import { addImage } from './image/image.ts';
import { packageVersion } from '../kvm/package-version.ts';
import { addRun } from './run.ts';
import { addVersion } from './version.ts';
import { addVmnetSwitch } from './vmnet-switch.ts';
import { exampleHelp } from './verb.ts';
import { addClone } from './vm/clone.ts';
import { addConsole } from './vm/console.ts';
import { addCopy } from './vm/copy.ts';
import { addCreateVm } from './vm/create.ts';
import { addEvents } from './vm/events.ts';
import { addExec, addShell } from './vm/exec.ts';
import {
  addDelete,
  addKill,
  addRename,
  addRestart,
  addStart,
  addStop,
  addVmProcess,
} from './vm/lifecycle.ts';
import { addInfoVm, addList } from './vm/list.ts';
import { addLogs } from './vm/logs.ts';
import { addPause, addResume, addSuspend } from './vm/pause.ts';
import { addRestore } from './vm/restore.ts';
import { addScreenshot } from './vm/screenshot.ts';
import { addSend } from './vm/send.ts';
import { addSet } from './vm/set.ts';
import { addSnapshot } from './vm/snapshot.ts';
import { addSsh } from './vm/ssh.ts';
import { addTop } from './vm/top.ts';
import { addWait } from './vm/wait.ts';

const EXAMPLES = [
  'tsvm doctor                                         check this machine',
  'tsvm run --kernel vmlinuz --initrd initrd.img       boot a kernel; Ctrl-] q leaves it',
  'tsvm disk create debian.qcow2 20G                   make a disk image',
  'tsvm run --help                                     all options of a command',
];

/** What a command line comes to, with its exit status; `debug` holds also where the verb threw. */
export type Outcome = { readonly code: number; readonly debug: boolean; readonly error?: unknown };

/** Runs the command line `args`, without the names of Node and of tsvm. Never rejects. */
export async function runProgram(args: readonly string[]): Promise<Outcome> {
  let code: number = EXIT.ok;
  let debug = false;
  const program = new Command('tsvm')
    .description('Runs Linux guests in virtual machines, on KVM.')
    .version(packageVersion(), '-V, --version', 'print the version of tsvm')
    .option('--debug', 'print the stack trace of an error')
    .enablePositionalOptions()
    .exitOverride()
    // A usage error is printed with all the others, from the CommanderError.
    .configureOutput({ outputError: () => undefined })
    .addHelpText('after', `${exampleHelp(EXAMPLES)}\n\n${exitCodeHelp()}`)
    .hook('preAction', (_, verb) => {
      debug = verb.optsWithGlobals<{ debug?: true }>().debug === true;
    });
  const done = (status: number): void => {
    code = status;
  };
  const verbs = [
    ...[addRun, addCreateVm, addStart, addStop, addRestart, addKill, addDelete, addRename, addSet],
    ...[addPause, addResume, addSuspend, addSnapshot, addRestore, addClone],
    ...[
      addList,
      addInfoVm,
      addTop,
      addLogs,
      addEvents,
      addConsole,
      addSend,
      addWait,
      addExec,
      addShell,
      addCopy,
      addSsh,
      addScreenshot,
      addVmProcess,
      addCompletion,
    ],
  ];
  for (const add of verbs) add(program, done);
  addAgent(program, done);
  addDisk(program, done);
  addImage(program, done);
  addDoctor(program, done);
  addVersion(program, done);
  addVmnetSwitch(program, done);
  try {
    await program.parseAsync(args, { from: 'user' });
    return { code, debug };
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      return { code: isUsage(error) ? EXIT.usage : EXIT.failed, debug, error };
    }
    if (error.exitCode === 0) return { code: EXIT.ok, debug };
    // Called without a verb, commander has printed the help.
    if (error.code === 'commander.help') return { code: EXIT.usage, debug };
    return { code: EXIT.usage, debug, error: usageError(program, error, args) };
  }
}

/** An option that only the VMM can judge is told by its code. */
function isUsage(error: unknown): boolean {
  if (error instanceof UsageError) return true;
  return error instanceof Error && 'code' in error && error.code === 'EOPTION';
}

/** Names of the command, and of those within it, that `args` begins with. */
function commandPath(command: Command, args: readonly string[]): string {
  const next = command.commands.find((each) => each.name() === args[0]);
  return next === undefined ? command.name() : `${command.name()} ${commandPath(next, args.slice(1))}`;
}

/** Commander's message, with its suggestion as the hint. */
function usageError(program: Command, error: CommanderError, args: readonly string[]): UsageError {
  const [message = '', suggestion] = error.message
    .replace(/^error: /, '')
    .replace(' is invalid. ', ' is invalid: ')
    .split(/\n\(?/);
  const didYouMean = suggestion?.replace(/^Did you mean (.*?)\?\)?$/, 'did you mean $1?');
  return new UsageError(message, didYouMean ?? `see '${commandPath(program, args)} --help'`);
}
