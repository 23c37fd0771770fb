import { Command as Program, InvalidArgumentError } from 'commander';
import { spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { LabClient } from './client.ts';
import { LabError, type Command, type ExecOptions, type ExecResult } from './commands.ts';
import { DEFAULT_MEM_MIB, Lab, type LabOptions } from './lab.ts';
import { SCRATCH_PATH } from './scratch.ts';
import { isListening, keptSocket, LabServer } from './server.ts';

/** As timeout(1) has them. */
const EXIT_TIMED_OUT = 124;
const EXIT_LAB_FAILED = 125;

const HELP = `
COMMAND is run with this directory, environment, standard input and output; a single argument is a line for
the shell. It reads the host's files; what it writes is gone afterwards, but for the directory given
with --shared (the command finds it in TSVM_LAB_SHARED). TSVM_LAB_SCRATCH names a directory on a disk of
level 1, for large files, holes and direct I/O; with --debian it has Debian's disk as debian.raw. The exit status is the command's, ${EXIT_TIMED_OUT} where it
took longer than --timeout, ${EXIT_LAB_FAILED} where the lab failed.

  npm run lab -- node -e 'console.log(1)'      boots a level 1, runs the command in it, stops it
  npm run lab -- --keep                        boots a level 1 that stays; commands then run in that one
  npm run lab -- --stop                        stops it`;

type Options = {
  readonly keep?: true;
  readonly stop?: true;
  readonly serve?: true;
  readonly timeout?: number;
  readonly mem?: number;
  readonly cpus?: number;
  readonly shared?: string;
  readonly debian?: true;
};

type Runner = {
  readonly shared: string;
  exec(command: Command, options: ExecOptions): Promise<ExecResult>;
};

async function main(): Promise<number> {
  const program = new Program('npm run lab --')
    .description('Run a command on a machine with a true KVM: Debian under an emulated AMD CPU with SVM.')
    .usage('[options] COMMAND...')
    .argument('[command...]')
    .option('--keep', 'boot a level 1 that stays')
    .option('--stop', 'stop the one that was kept')
    .option('--timeout <s>', 'kill the command after that many seconds', positive)
    .option(
      '--mem <MiB>',
      `memory of level 1 (default: ${DEFAULT_MEM_MIB}); a kept one is not used then`,
      positive,
    )
    .option('--cpus <n>', 'CPUs of level 1 (default: 1); a kept one is not used then', positive)
    .option(
      '--shared <dir>',
      'directory whose files the command can write, and that stay; a kept one is not used then',
    )
    .option('--debian', "put Debian's disk on the scratch disk; a kept one is not used then")
    .addOption(new Program().createOption('--serve').hideHelp())
    .addHelpText('after', HELP)
    .passThroughOptions()
    .parse();
  const options = program.opts<Options>();
  const labOptions: LabOptions = {
    ...(options.mem === undefined ? {} : { mem: options.mem }),
    ...(options.cpus === undefined ? {} : { cpus: options.cpus }),
    ...(options.shared === undefined ? {} : { shared: options.shared }),
    ...(options.debian === undefined ? {} : { debian: true }),
  };
  if (options.serve) return serve(labOptions);
  if (options.keep) return keep(labOptions);
  if (options.stop) return stop();
  const [first, ...rest] = program.args;
  if (first === undefined) return program.help({ error: true });
  const command = rest.length === 0 ? first : program.args;

  if (Object.keys(labOptions).length === 0 && (await isListening(keptSocket()))) {
    return run(await LabClient.connect(keptSocket()), command, options);
  }
  await using lab = await Lab.start(labOptions);
  const ended = new Promise<number>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => resolve(128 + constants.signals[signal]));
    }
  });
  return await Promise.race([run(lab, command, options), ended]);
}

async function run(runner: Runner, command: Command, options: Options): Promise<number> {
  const { code, timedOut } = await runner.exec(command, {
    stdin: process.stdin,
    timeoutMs: options.timeout === undefined ? Infinity : options.timeout * 1000,
    collect: false,
    env: { TSVM_LAB_SHARED: runner.shared, TSVM_LAB_SCRATCH: SCRATCH_PATH },
    onOutput: (data, stream) => process[stream].write(data),
  });
  if (timedOut) process.stderr.write(`lab: the command was killed after ${String(options.timeout)} s\n`);
  return timedOut ? EXIT_TIMED_OUT : code;
}

/** Holds a level 1 until it ends, is asked to stop, or this process is. */
async function serve(options: LabOptions): Promise<number> {
  const server = await LabServer.listen(keptSocket(), options);
  const lab = await server.lab();
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const signalled = new Promise<void>((resolve) =>
    signals.forEach((name) => process.once(name, () => resolve())),
  );
  await Promise.race([lab.ended, server.stopRequested, signalled]);
  await server.close();
  return 0;
}

/** Starts a process that serves level 1 and returns when it is up. */
async function keep(options: LabOptions): Promise<number> {
  if (await isListening(keptSocket())) {
    process.stderr.write('lab: level 1 is up already\n');
    return 0;
  }
  const logFile = join(dirname(keptSocket()), 'kept.log');
  mkdirSync(dirname(logFile), { recursive: true });
  const log = openSync(logFile, 'w');
  const flags = Object.entries(options).flatMap(([name, value]) =>
    value === true ? [`--${name}`] : [`--${name}`, String(value)],
  );
  const daemon = spawn(process.execPath, [...process.execArgv, import.meta.filename, '--serve', ...flags], {
    detached: true,
    stdio: ['ignore', log, log],
  });
  daemon.unref();
  const hasEnded = () => daemon.exitCode !== null || daemon.signalCode !== null;
  while (!hasEnded() && !(await isListening(keptSocket()))) await sleep(50);
  const client = hasEnded() ? undefined : await LabClient.connect(keptSocket()).catch(() => undefined);
  if (client === undefined) {
    throw new LabError(`level 1 did not come up:\n${readFileSync(logFile, 'utf8').trimEnd()}`);
  }
  process.stderr.write(`lab: level 1 is up; shared directory: ${client.shared}\n`);
  client.close();
  return 0;
}

async function stop(): Promise<number> {
  if (!(await isListening(keptSocket()))) {
    process.stderr.write('lab: there is no level 1 that was kept\n');
    return 0;
  }
  await (await LabClient.connect(keptSocket())).stop();
  return 0;
}

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value <= 0)
    throw new InvalidArgumentError('Not a positive whole number.');
  return value;
}

try {
  process.exit(await main());
} catch (error) {
  process.stderr.write(`lab: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(EXIT_LAB_FAILED);
}
