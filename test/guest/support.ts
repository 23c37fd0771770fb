import { Readable } from 'node:stream';
import { join } from 'node:path';
import { initramfsFile, type Initramfs } from '../../images/debian/initramfs.ts';
import { kernelOf, type Kernel } from '../../images/debian/kernel.ts';
import { packageRoot } from '../../images/debian/cache.ts';
import { guestHost, type GuestHost } from '../lab/host.ts';
import type { ExecResult } from '../lab/commands.ts';
import { canRunGuests } from '../support/can-run-guests.ts';
import { unpackAhead } from '../support/unpack-ahead.ts';

export const TSVM = join(packageRoot(), 'dist/tsvm.cjs');

/** Where this test file's guests run. */
export const openHost = (): Promise<GuestHost> => guestHost({ canRunGuests });

/** Mounts what commands want, then runs the script; the console is its standard output. */
export const initOf = (script: string): string => `
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
${script}
`;

export type GuestRun = {
  readonly kernel: Kernel;
  /** what init does, after {@link initOf}'s mounts */
  readonly script: string;
  readonly modules?: readonly string[];
  readonly cmdline?: string;
  /** more arguments of `tsvm run` */
  readonly args?: readonly string[];
  /** what standard input has, or what it gets when the output so far holds a text: each once, in order */
  readonly stdin?: string | readonly { readonly after: string; readonly send: string }[];
  /** give tsvm a terminal */
  readonly terminal?: boolean;
  readonly timeoutMs?: number;
};

/** The archive for a run's script. */
export function initrdOf({ kernel, script, modules }: GuestRun): Promise<string> {
  const spec: Initramfs = {
    init: initOf(script),
    ...(modules !== undefined && { modules: { kernel, names: modules } }),
  };
  return initramfsFile(spec);
}

/** Boots a guest through the command line, as a user does. */
export async function runGuest(host: GuestHost, run: GuestRun): Promise<ExecResult> {
  const initrd = await initrdOf(run);
  const cmdline = `console=ttyS0 quiet ${run.cmdline ?? ''}`.trim();
  const argv = [
    'node',
    TSVM,
    'run',
    '--kernel',
    run.kernel.vmlinuz,
    '--initrd',
    initrd,
    '--cmdline',
    cmdline,
  ];
  argv.push(...(run.args ?? []));
  const quoted = argv.map((word) => `'${word}'`).join(' ');
  const command = run.terminal === true ? ['script', '-qec', quoted, '/dev/null'] : argv;
  const { stdin, onOutput } = dialogue(run.stdin);
  const result = await host.exec(command, {
    timeoutMs: run.timeoutMs ?? 120_000,
    onOutput,
    ...(stdin && { stdin }),
  });
  if (result.timedOut) {
    throw new Error(
      `tsvm did not end in time; the console's end:\n${result.stdout.slice(-3000)}\n${result.stderr}`,
    );
  }
  return result;
}

/** The key that leaves a console. */
export const LEAVE = '\x1d';

/** `tsvm console` on a terminal, typed at in answer to what it shows, until it is left; returns all that it shows. */
export async function attach(
  host: GuestHost,
  home: string,
  name: string,
  steps: readonly { readonly after: string; readonly send: string }[],
): Promise<string> {
  const line = `TSVM_HOME='${home}' node '${TSVM}' console ${name}`;
  const { stdin, onOutput } = dialogue(steps);
  const result = await host.exec(['script', '-qec', line, '/dev/null'], {
    timeoutMs: 300_000,
    onOutput,
    ...(stdin && { stdin }),
  });
  if (result.code !== 0) throw new Error(`status ${result.code}: ${result.stdout}${result.stderr}`);
  return result.stdout;
}

/** Standard input that answers to output. */
function dialogue(script: GuestRun['stdin']): {
  stdin?: string | Readable;
  onOutput: (data: Buffer) => void;
} {
  if (script === undefined || typeof script === 'string') {
    return { ...(script !== undefined && { stdin: script }), onOutput: () => undefined };
  }
  const stdin = new Readable({ read: () => undefined });
  const steps = [...script];
  let seen = '';
  return {
    stdin,
    onOutput: (data) => {
      seen += data.toString();
      for (let step = steps[0]; step !== undefined && seen.includes(step.after); step = steps[0]) {
        seen = seen.slice(seen.indexOf(step.after) + step.after.length);
        stdin.push(step.send);
        steps.shift();
      }
    },
  };
}

/** A kernel of Debian's, ready to be booted packed or unpacked. */
export async function debianKernel(...[name, options]: Parameters<typeof kernelOf>): Promise<Kernel> {
  const kernel = await kernelOf(name, options);
  await unpackAhead(kernel.vmlinuz);
  return kernel;
}

export const cloudKernel = (): Promise<Kernel> => debianKernel('linux-image-cloud-amd64');
export const amd64Kernel = (): Promise<Kernel> => debianKernel('linux-image-amd64');
