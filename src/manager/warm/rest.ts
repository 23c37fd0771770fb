import { sleep } from '../sleep.ts';
import { VmConnection } from '../vms/lifecycle.ts';
import type { VmStore } from '../vms/store.ts';

/** The guest's processors are looked at so often, in milliseconds, and are at rest where they are so little used … */
const WINDOW = 250;
const BUSY = 0.25;
/** … so many times in a row. */
const WINDOWS = 2;
/** Part of the time that its boot took until then that is waited at most; in milliseconds, at least and at most. */
const PART = 0.5;
const LEAST = 2000;
const MOST = 30_000;

/**
 * Waits until a guest whose agent answers has done the rest of its boot: services come up beside the agent, and who goes
 * on from there later would have to do that, too, each time. For a while only: one that is never idle is as good.
 * @throws ControlError, VmStoreError, the signal's reason
 */
export async function comeToRest(store: VmStore, name: string, signal?: AbortSignal): Promise<void> {
  using connection = new VmConnection(store, name);
  const { control } = connection;
  const { entered } = (await control.describe()).boot;
  const boot = performance.timeOrigin + performance.now() - entered;
  const end = performance.now() + Math.min(MOST, Math.max(LEAST, PART * boot));
  /** seconds that the VM's process has had a processor */
  const used = async (): Promise<number> => {
    const { user, system } = (await control.metrics()).cpuTime;
    return user + system;
  };
  let before = { at: performance.now(), used: await used() };
  for (let quiet = 0; quiet < WINDOWS && performance.now() < end;) {
    await sleep(WINDOW, signal);
    signal?.throwIfAborted();
    const now = { at: performance.now(), used: await used() };
    quiet = 1000 * (now.used - before.used) < BUSY * (now.at - before.at) ? quiet + 1 : 0;
    before = now;
  }
}
