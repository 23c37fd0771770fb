/** What the time of a VM's start went into. */
import type { ControlClient } from '../../manager/control/client.ts';

/** Marks on the way, in milliseconds since 1970. */
export type Marks = {
  readonly begin: number;
  readonly created: number;
  /** the agent answers */
  readonly ready: number;
  readonly ended: number;
};

/** In milliseconds. The kernel's and init's are undefined where the guest does not tell them. */
export type Phases = {
  /** from the start of tsvm until the VM is made */
  readonly create: number;
  /** until its process has entered the guest */
  readonly vmm: number;
  /** until the kernel runs the first process */
  readonly kernel: number | undefined;
  /** until the agent opens its port */
  readonly init: number | undefined;
  /** until it is known to answer */
  readonly agent: number;
  /** until a guest that goes on has been told what it has to know */
  readonly wake: number | undefined;
  readonly command: number;
  readonly ended: number;
};

/** A line `[    0.512345] Run /init as init process`, which the kernel has since 5.1, and how long it is up. */
const ASK = 'cat /proc/uptime; dmesg | grep -m1 "Run .* as init process"';
const ASK_LIMIT = 30_000;

/** Asks the VM's process, and the guest. */
export async function bootPhases(control: ControlClient, marks: Marks): Promise<Phases> {
  const { boot } = await control.describe();
  const opened = boot.agentOpened ?? marks.ready;
  const initAt = await initStart(control);
  const answered = boot.agentAnswered ?? marks.ready;
  const isSound = initAt !== undefined && initAt > boot.entered && initAt < opened;
  return {
    create: marks.created - marks.begin,
    vmm: boot.entered - marks.created,
    kernel: isSound ? initAt - boot.entered : undefined,
    init: isSound ? opened - initAt : undefined,
    agent: isSound ? marks.ready - opened : answered - boot.entered,
    wake: isSound ? undefined : marks.ready - answered,
    command: marks.ended - marks.ready,
    ended: marks.ended,
  };
}

/** When the kernel has started the first process, on the clock of the host; to some hundredths of a second. */
async function initStart(control: ControlClient): Promise<number | undefined> {
  const clock = (): number => performance.timeOrigin + performance.now();
  try {
    const before = clock();
    const { stdout } = await control.exec({ command: '/bin/sh', args: ['-c', ASK], timeout: ASK_LIMIT });
    const middle = (before + clock()) / 2;
    const text = Buffer.from(stdout, 'base64').toString('latin1');
    const [up, init] = [/^(\d+\.\d+)/.exec(text), /^\[ *(\d+\.\d+)\]/m.exec(text)];
    return up === null || init === null ? undefined : middle - 1000 * (Number(up[1]) - Number(init[1]));
  } catch {
    return undefined;
  }
}

/** By the names of the phases, in milliseconds. @param gone when the VM was gone, in milliseconds since 1970 */
export function phaseTimes(
  { create, vmm, kernel, init, agent, wake, command, ended }: Phases,
  gone: number,
): Readonly<Record<string, number>> {
  const times = Object.entries({ create, vmm, kernel, init, agent, wake, command, cleanup: gone - ended })
    .filter((entry): entry is [string, number] => entry[1] !== undefined)
    .map(([name, time]) => [name, Math.round(time)] as const);
  return Object.fromEntries(times);
}

/** One line. */
export function formatPhases(times: Readonly<Record<string, number>>): string {
  const shown = Object.entries(times).map(([name, time]) => `${name} ${time} ms`);
  return `tsvm: ${shown.join(', ')}\n`;
}
