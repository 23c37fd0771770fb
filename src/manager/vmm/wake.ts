/** What a guest is told when it goes on from a snapshot, and a clone's once it is up: it has what another one has. */
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import type { AgentClient } from '../agent/client.ts';
import { AgentError } from '../agent/errors.ts';
import { CLONE } from '../vms/files.ts';
import { identityArguments, IDENTITY_SCRIPT, type Identity } from './identity.ts';
import { CLOCK_FAILED, WAKE_SCRIPT, wakeInput, wakeProgram } from './wake-program.ts';

/** A guest that ran when it was saved answers at once; another one may boot first, and its agent be installed. */
const READY_LIMIT_MS = 60_000;
const BOOT_LIMIT_MS = 600_000;
const SCRIPT_LIMIT_MS = 60_000;
/** in bytes: what the kernel's generator is keyed with */
const SEED = 32;
/** The guest's clock is read again where an answer takes longer, as often as this; in milliseconds. */
const CLOCK_ANSWER_MS = 50;
const CLOCK_READS = 2;

export type WakeOptions = {
  /** whether it goes on from where it was saved; else it boots */
  readonly resuming: boolean;
  /** of a clone: who it is to be */
  readonly identity: Identity | undefined;
  readonly log: (line: string) => void;
  /** called when the agent has answered first */
  readonly answered: () => void;
  readonly exited: Promise<unknown>;
};

/**
 * Tells a guest what it cannot know: one that goes on from a snapshot writes again where it was saved with its file
 * systems frozen, has its clock set and random numbers that no other has that goes on from the same; a clone is told who
 * it is, and until it knows each start of the VM tries again. Resolves once that is done, or cannot be: what cannot be is
 * logged.
 */
export async function wake(
  agent: AgentClient,
  { resuming, identity, log, answered, exited }: WakeOptions,
): Promise<void> {
  if (!resuming && identity === undefined) return;
  const ended = new AbortController();
  const { signal } = ended;
  void exited.then(() => ended.abort());
  /** @param what is the case where `work` fails */
  const attempt = async <T>(what: string, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof AgentError)) throw error;
      log(`${what}: ${error.message}`);
      return undefined;
    }
  };
  const asSaved = "the guest's clock and random numbers are as they were saved";
  const unknown = `the guest does not know yet that it is ${identity?.hostname}`;
  const what = [...(resuming ? [asSaved] : []), ...(identity ? [unknown] : [])].join(', and ');
  const timeout = identity?.boots === true ? BOOT_LIMIT_MS : READY_LIMIT_MS;
  const answers = await attempt(what, async () => {
    await agent.waitUntilReady({ timeout, signal });
    answered();
    return true;
  });
  if (answers === undefined) return;
  if (resuming) {
    await attempt("the guest's file systems may be frozen", async () => {
      if ((await agent.freezeStatus()) === 'frozen') await agent.thaw();
    });
  }
  const late = resuming
    ? await attempt("the guest's clock cannot be read", () => clockOffset(agent))
    : undefined;
  const told = await attempt(what, () => tell(agent, { resuming, late, identity, signal }));
  if (resuming && told?.isClockSet !== true)
    await attempt("the guest's clock was not set", () => agent.setTime());
  if (told === undefined) return;
  if (told.seed !== 0) log(`the guest's random numbers may be those of others: status ${told.seed}`);
  if (identity === undefined) return;
  // A guest that cannot have a part of it cannot have it at the next start either.
  rmSync(CLONE, { force: true });
  log(
    told.isAll
      ? `the guest knows that it is ${identity.hostname}`
      : `the guest is not all of ${identity.hostname}: ${told.said}`,
  );
}

/** By how much the guest's clock is late, in nanoseconds. */
async function clockOffset(agent: AgentClient): Promise<bigint> {
  let least = Infinity;
  let offset = 0;
  for (let read = 0; read < CLOCK_READS && least > CLOCK_ANSWER_MS; read++) {
    const asked = Date.now();
    const begun = performance.now();
    const guest = await agent.time();
    const took = performance.now() - begun;
    if (took >= least) continue;
    least = took;
    offset = asked + took / 2 - guest.getTime();
  }
  return BigInt(Math.round(offset)) * 1_000_000n;
}

type Told = {
  readonly isClockSet: boolean;
  /** 0, or why the kernel has no new seed */
  readonly seed: number;
  /** it has all that a clone is to have */
  readonly isAll: boolean;
  /** what went wrong with that */
  readonly said: string;
};

/** One shell does all of it: see {@link WAKE_SCRIPT}. */
async function tell(
  agent: AgentClient,
  {
    resuming,
    late,
    identity,
    signal,
  }: Pick<WakeOptions, 'resuming' | 'identity'> & {
    readonly late: bigint | undefined;
    readonly signal: AbortSignal;
  },
): Promise<Told> {
  const script = [
    resuming ? WAKE_SCRIPT : 'woken=0\n',
    identity === undefined ? 'failed=0\n' : IDENTITY_SCRIPT,
    'echo "$woken $failed"',
  ].join('');
  const args = identity === undefined ? [] : identityArguments(identity);
  const { stdout, stderr } = await agent.exec('/bin/sh', ['-c', script, 'sh', ...args], {
    timeout: SCRIPT_LIMIT_MS,
    signal,
    ...(resuming && { input: wakeInput(wakeProgram(randomBytes(SEED), late)) }),
  });
  const [woken = 125, failed = 1] = (/^(\d+) (\d+)$/m.exec(stdout.toString())?.slice(1) ?? []).map(Number);
  // From 125 on the program was not run.
  const ran = woken < 125;
  return {
    isClockSet: ran && late !== undefined && (woken & CLOCK_FAILED) === 0,
    seed: ran ? woken & ~CLOCK_FAILED : woken,
    isAll: failed === 0,
    said: stderr
      .toString()
      .trim()
      .replaceAll(/\s*\n\s*/g, '; ')
      .slice(0, 500),
  };
}
