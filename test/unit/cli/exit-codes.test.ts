import { constants } from 'node:os';

import { describe, expect, it } from 'vitest';

import { EXIT, exitCodeHelp, exitCodeOf } from '../../../src/cli/exit-codes.ts';

describe('exit codes', () => {
  it.each([
    ['poweroff', 0],
    ['stopped', 1],
    ['panic', 3],
    ['triple-fault', 3],
    ['error', 3],
    ['reboot', 4],
  ] as const)('gives %s the status %d', (reason, code) => {
    expect(exitCodeOf(reason)).toBe(code);
  });

  it('reports a signal as shells do', () => {
    const { SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM } = constants.signals;
    expect([EXIT.hangup, EXIT.interrupted, EXIT.quit, EXIT.brokenPipe, EXIT.terminated]).toEqual(
      [SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM].map((number) => 128 + number),
    );
  });

  it('documents every status, and no status twice', () => {
    const documented = exitCodeHelp()
      .match(/^ {2}(\d+)/gm)
      ?.map(Number);
    expect(documented).toEqual(Object.values(EXIT).sort((a, b) => a - b));
  });
});
