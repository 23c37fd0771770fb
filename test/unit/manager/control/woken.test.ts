import { expect, test } from 'vitest';
import { AgentTimeoutError } from '../../../../src/manager/agent/errors.ts';
import { untilWoken } from '../../../../src/manager/control/woken.ts';

const never = new Promise<void>(() => undefined);
const nobody = new AbortController().signal;

test('a guest that is not told in time is not waited for longer', async () => {
  const waiting = untilWoken(never, 10, nobody);
  await expect(waiting).rejects.toThrow(AgentTimeoutError);
  await expect(waiting).rejects.toThrow(/wake-up .* within 0\.01 s/);
});

test('one that knows, or need not, is not waited for', async () => {
  await untilWoken(Promise.resolve(), 10, nobody);
  await untilWoken(Promise.resolve(), undefined, nobody);
  await expect(untilWoken(undefined, 10, nobody)).resolves.toBeUndefined();
});

test('nor is any once the client has gone', async () => {
  const gone = new AbortController();
  const waiting = untilWoken(never, undefined, gone.signal);
  gone.abort();
  await waiting;
});
