/** What a guest is told when it goes on from a snapshot. */
import type { AgentClient } from '../agent/client.ts';
import { AgentError } from '../agent/errors.ts';
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

/** Sets the clock of a guest, and has it write again where it was saved with its file systems frozen. */
async function goOn(agent: AgentClient, ended: AbortController, log: (line: string) => void): Promise<void> {
  try {
    await agent.waitUntilReady({ timeout: READY_LIMIT_MS, signal: ended.signal });
    if ((await agent.freezeStatus()) === 'frozen') await agent.thaw();
    await agent.setTime();
  } catch (error) {
    if (ended.signal.aborted) return;
    if (!(error instanceof AgentError)) throw error;
    log(`the guest's clock was not set: ${error.message}`);
  }
}
