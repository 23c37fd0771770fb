/** What a guest is told when it goes on from a snapshot. */
import type { AgentClient } from '../agent/client.ts';
import { AgentError } from '../agent/errors.ts';
import { seedGuest } from './entropy.ts';
import { tellIdentity, type Identity } from './identity.ts';

/** A guest that ran when it was saved answers at once. */
const READY_LIMIT_MS = 30_000;

export type WakeOptions = {
  /** whether it goes on from where it was saved; else it boots */
  readonly resuming: boolean;
  /** of a clone: who it is to be */
  readonly identity: Identity | undefined;
  readonly log: (line: string) => void;
  readonly exited: Promise<unknown>;
};

/** Tells a guest what it cannot know. Resolves once that is done, or cannot be: what cannot be is told. */
export async function wake(
  agent: AgentClient,
  { resuming, identity, log, exited }: WakeOptions,
): Promise<void> {
  const ended = new AbortController();
  void exited.then(() => ended.abort());
  if (resuming) await goOn(agent, ended, log);
  if (identity !== undefined) await tellIdentity(agent, identity, { log, signal: ended.signal });
}

/**
 * Has a guest write again where it was saved with its file systems frozen, gives it random numbers that no other has
 * that goes on from the same, and sets its clock.
 */
async function goOn(
  agent: AgentClient,
  { signal }: AbortController,
  log: (line: string) => void,
): Promise<void> {
  /** @param work resolves with what went wrong, where it is a text */
  const attempt = async (what: string, work: () => Promise<unknown>): Promise<boolean> => {
    try {
      const failure = await work();
      if (typeof failure === 'string') log(`${what}: ${failure}`);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      if (!(error instanceof AgentError)) throw error;
      log(`${what}: ${error.message}`);
      return false;
    }
  };
  const answers = await attempt("the guest's clock and random numbers are as they were saved", () =>
    agent.waitUntilReady({ timeout: READY_LIMIT_MS, signal }),
  );
  if (!answers) return;
  await attempt("the guest's file systems may be frozen", async () => {
    if ((await agent.freezeStatus()) === 'frozen') await agent.thaw();
  });
  await attempt("the guest's random numbers may be those of others", () =>
    seedGuest(agent, { timeout: READY_LIMIT_MS, signal }),
  );
  await attempt("the guest's clock was not set", () => agent.setTime());
}
