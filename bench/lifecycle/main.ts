/**
 * `tsvm run IMAGE -- COMMAND` from a cached image to the command's output, and what the time goes into, beside the bare
 * boot of the same guest to its agent; or, with a guest that any KVM runs, the verbs of a VM's life.
 * `npm run bench:lifecycle -- --help`.
 */
import { Command, Option } from 'commander';
import { join } from 'node:path';
import { packageRoot } from '../../images/debian/cache.ts';
import { kernelOf } from '../../images/debian/kernel.ts';
import { buildDebian } from '../../images/debian/system.ts';
import { guestHost, type GuestHost } from '../../test/lab/host.ts';
import { agentInitramfs } from '../../test/support/agent-guest.ts';
import { canRunGuests } from '../../test/support/can-run-guests.ts';
import { unpackAhead } from '../../test/support/unpack-ahead.ts';
import { count, warnIfBusy } from '../support/options.ts';
import { median, summarize } from '../support/statistics.ts';
import { benchVerbs } from './verbs.ts';

const TSVM = join(packageRoot(), 'dist/tsvm.cjs');
const MARKER = 'bench: the command speaks';
const IMAGE = 'bench';
const AGENT_PORT = 'org.qemu.guest_agent.0';
const GUESTS = ['agent', 'debian', 'echo'] as const;
const LIMIT_MS = { agent: 120_000, debian: 400_000 } as const;
/** what a throw-away VM may take beyond the boot of its guest, in milliseconds */
const GOAL_MS = 1500;
/** A note, and no contender: there is no container engine where these guests run. */
const DOCKER =
  'from the literature: `docker run` of an image that is there, on a machine of 2 vCPUs: 568 ms with an SSD, 1157 ms with a hard disk (arXiv:2602.15214)';
/** how much sooner the output of a run is to be there that goes on from where another had booted */
const WARM_GOAL = 20;

type Run = {
  readonly round: number;
  readonly name: 'run' | 'warm' | 'bare';
  readonly ok: boolean;
  /** milliseconds from the start of tsvm to the output, or to the agent's answer */
  readonly output: number | null;
  readonly end?: number;
  readonly phases?: Readonly<Record<string, number>> | null;
  readonly tail?: string;
};

/** A guest with an agent, and the disk that its image is made of. */
type Subject = {
  readonly title: string;
  readonly disk: string;
  readonly format: 'raw' | 'qcow2';
  readonly kernel: string;
  readonly initrd: string;
  readonly cmdline: string;
};

const options = new Command('npm run bench:lifecycle --')
  .description(
    'Times `tsvm run IMAGE -- COMMAND` against the bare boot of the same guest, or the verbs of a VM.',
  )
  .addOption(
    new Option(
      '--guest <guest>',
      'agent: an initramfs that is the guest agent; debian: with systemd, from its disk; echo: no kernel, for the verbs',
    )
      .choices(GUESTS)
      .default('agent'),
  )
  .option('--runs <n>', 'rounds', count, 10)
  .option('--mem <size>', 'guest memory', '512M')
  .option('--json', 'print all figures as JSON')
  .parse()
  .opts<{ guest: (typeof GUESTS)[number]; runs: number; mem: string; json?: true }>();

if (options.guest === 'echo') {
  warnIfBusy();
  await benchVerbs(options);
} else {
  const host = await guestHost({ canRunGuests, debian: options.guest === 'debian' });
  try {
    await benchRun(host, options.guest);
  } finally {
    await host.close();
  }
}

async function benchRun(host: GuestHost, guest: 'agent' | 'debian'): Promise<void> {
  const folder = join(host.scratch, 'lifecycle');
  await must(host, ['mkdir', '-p', folder]);
  try {
    const subject = await (guest === 'agent' ? agentGuest(host, folder) : debianGuest(host));
    const { disk, format, kernel, initrd, cmdline } = subject;
    const home = join(folder, 'home');
    const tsvm = ['env', `TSVM_HOME=${home}`, process.execPath, TSVM];
    const machine = ['--kernel', kernel, '--initrd', initrd, '--cmdline', cmdline];
    await must(host, [...tsvm, 'image', 'import', '--name', IMAGE, '--format', format, ...machine, disk]);
    const overlay = join(folder, 'bare.qcow2');
    const socket = join(folder, 'agent.sock');
    const command = [
      ...['--mem', options.mem, '--net', 'none', '--timings', '--json'],
      ...[IMAGE, '--', 'echo', MARKER],
    ];
    const request = {
      run: [...tsvm, 'run', '--cold', ...command],
      warm: [...tsvm, 'run', ...command],
      bare: [
        ...[...tsvm, 'run', '--mem', options.mem, ...machine, '--cmdline', `${cmdline} console=ttyS0`],
        ...['--disk', `${overlay},format=qcow2,trust-backing`, '--port', `${AGENT_PORT}=${socket}`],
        // The one that the guest's init waits for.
        ...['--port', `tsvm.exec.2.err=${join(folder, 'last.sock')}`],
      ],
      // As the throw-away VM has one: an overlay that nothing was written to.
      prepare: [
        ...['sh', '-c', 'rm -f "$1"; shift; exec "$@"', 'sh', overlay],
        ...[...tsvm, 'disk', 'create', '--backing', disk, '--backing-format', format, overlay],
      ],
      socket,
      marker: MARKER,
      // One round outside the count unpacks the kernel, and warms the files.
      runs: options.runs + 1,
      limitMs: LIMIT_MS[guest],
    };
    const measure = [process.execPath, join(import.meta.dirname, 'measure.mjs'), JSON.stringify(request)];
    const timeoutMs = 2 * request.runs * request.limitMs;
    const runs = (await must(host, measure, timeoutMs))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Run)
      .filter(({ round }) => round > 0);
    report(host, subject, runs);
  } finally {
    await host.exec(['rm', '-rf', folder]);
  }
}

async function agentGuest(host: GuestHost, folder: string): Promise<Subject> {
  const kernel = await kernelOf('linux-image-cloud-amd64');
  await unpackAhead(kernel.vmlinuz);
  const disk = join(folder, 'disk.raw');
  await must(host, ['truncate', '-s', '1M', disk]);
  return {
    title: `Linux ${kernel.version} with the guest agent as its init`,
    disk,
    format: 'raw',
    kernel: kernel.vmlinuz,
    initrd: await agentInitramfs(kernel),
    cmdline: 'quiet',
  };
}

async function debianGuest(host: GuestHost): Promise<Subject> {
  const system = await buildDebian();
  await unpackAhead(system.kernel);
  return {
    title: `Debian with Linux ${system.kernelVersion} and systemd, from its disk`,
    disk: await host.debianDisk('lifecycle-base.qcow2', 'compressed'),
    format: 'qcow2',
    kernel: system.kernel,
    initrd: system.initrd,
    cmdline: system.cmdline,
  };
}

async function must(host: GuestHost, command: readonly string[], timeoutMs = 300_000): Promise<string> {
  const { code, stdout, stderr } = await host.exec(command, { timeoutMs });
  if (code !== 0) throw new Error(`${command.join(' ')}: status ${code}: ${stdout}${stderr}`);
  return stdout;
}

function report(host: GuestHost, { title }: Subject, runs: readonly Run[]): void {
  const of = (name: Run['name']): Run[] => runs.filter((run) => run.name === name);
  const figures = (title: string, name: Run['name'], valueOf: (run: Run) => number | null | undefined) => {
    const values = of(name).map((run) => valueOf(run) ?? null);
    return summarize(title, values, values.length);
  };
  const phases = ['create', 'vmm', 'kernel', 'init', 'agent', 'wake', 'command', 'cleanup'];
  const rows = [
    figures('run: to the output', 'run', ({ output }) => output),
    figures('run: to its end', 'run', ({ end }) => end),
    figures('run, warm: to the output', 'warm', ({ output }) => output),
    figures('run, warm: to its end', 'warm', ({ end }) => end),
    figures('bare boot to the agent', 'bare', ({ output }) => output),
    ...phases
      .filter((phase) => phase !== 'wake')
      .map((phase) => figures(`  ${phase}`, 'run', (run) => run.phases?.[phase])),
    // One that goes on has neither a kernel nor an init that begins.
    ...phases
      .filter((phase) => phase !== 'kernel' && phase !== 'init')
      .map((phase) => figures(`  warm: ${phase}`, 'warm', (run) => run.phases?.[phase])),
  ];
  // Round by round: the machine's speed drifts.
  const rounds = of('run').flatMap((cold) => {
    const inRound = (name: Run['name']): Run | undefined => of(name).find((run) => run.round === cold.round);
    const [bare, warm] = [inRound('bare'), inRound('warm')];
    if (cold.output === null || typeof bare?.output !== 'number' || typeof warm?.output !== 'number')
      return [];
    const before = (run: Run, names: readonly string[]): number =>
      names.reduce((sum, name) => sum + (run.phases?.[name] ?? 0), 0);
    const guest = ['kernel', 'init', 'agent'];
    const all = ['create', 'vmm', ...guest];
    return [
      {
        more: cold.output - bare.output,
        output: cold.output / warm.output,
        answer: before(cold, all) / before(warm, all),
        inside: before(cold, guest) / before(warm, guest),
      },
    ];
  });
  const ratio = (of: (round: (typeof rounds)[number]) => number): number =>
    Number(median(rounds.map(of)).toFixed(1));
  const difference = { median: Math.round(median(rounds.map(({ more }) => more))), goal: GOAL_MS };
  const sooner = {
    output: ratio(({ output }) => output),
    answer: ratio(({ answer }) => answer),
    inside: ratio(({ inside }) => inside),
    goal: WARM_GOAL,
  };
  if (options.json)
    console.log(JSON.stringify({ host: host.kind, title, options, rows, difference, sooner, runs }, null, 2));
  else {
    console.log(`${title}; ${options.mem}, 1 vCPU; ${host.kind}; milliseconds`);
    console.table(rows);
    console.log(
      `run takes ${difference.median} ms more than the bare boot (median of ${rounds.length}); the goal in the lab is ${GOAL_MS}`,
    );
    console.log(
      `warm, its output is there ${sooner.output} times sooner, and its agent's answer ${sooner.answer} times: ` +
        `${sooner.inside} times, from the guest's first instruction; the goal is ${WARM_GOAL}`,
    );
    console.log(DOCKER);
  }
  const failed = runs.filter(({ ok }) => !ok);
  for (const { name, tail } of failed) console.error(`${name} gave no figure:\n${tail ?? ''}`);
  if (failed.length > 0) process.exitCode = 1;
}
