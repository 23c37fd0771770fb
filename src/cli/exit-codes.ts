import type { VmExitReason } from '../vmm/types.ts';

/**
 * Every exit status of tsvm: the only place that assigns one. A status above 128 is 128 plus the number of the
 * signal that ended tsvm, as shells report it.
 */
export const EXIT = {
  ok: 0,
  failed: 1,
  usage: 2,
  crashed: 3,
  reboot: 4,
  timeout: 124,
  hangup: 129,
  interrupted: 130,
  quit: 131,
  brokenPipe: 141,
  terminated: 143,
} as const;

/** As shells report a command that a signal has ended: this and the signal's number. */
const SIGNAL_BASE = 128;

/** The status of a command in a guest. */
export function commandExitCode(end: {
  readonly exitCode: number | undefined;
  readonly signal: number | undefined;
}): number {
  return end.exitCode ?? (end.signal === undefined ? EXIT.failed : SIGNAL_BASE + end.signal);
}

/** Of `tsvm disk check`, as of `qemu-img check`; they mean other things with other commands. */
export const CHECK_EXIT = { clean: 0, errors: 2, leaks: 3 } as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

const MEANINGS: readonly (readonly [ExitCode, string])[] = [
  [EXIT.ok, 'success; run: the guest powered itself off'],
  [EXIT.failed, 'tsvm could not do it; doctor: this machine cannot run guests'],
  [EXIT.usage, 'wrong usage; disk check: there are errors'],
  [EXIT.crashed, 'the guest crashed: panic, triple fault, KVM error; disk check: there are leaks only'],
  [EXIT.reboot, 'the guest asked for a reboot and --no-reboot was given'],
  [EXIT.timeout, 'the time of --timeout was over'],
  [EXIT.hangup, 'the terminal is gone (SIGHUP)'],
  [EXIT.interrupted, 'left by the user: Ctrl-] q, or SIGINT'],
  [EXIT.quit, 'SIGQUIT'],
  [EXIT.brokenPipe, 'nobody reads standard output any more (SIGPIPE)'],
  [EXIT.terminated, 'SIGTERM'],
];

/** The exit statuses as a section of a help text. */
export function exitCodeHelp(): string {
  const lines = MEANINGS.map(([code, meaning]) => `  ${String(code).padEnd(4)} ${meaning}`);
  return ['Exit status:', ...lines].join('\n');
}

/** The status of a VM that ended by itself, not by what the user or a signal asked for. */
export function exitCodeOf(reason: VmExitReason): ExitCode {
  switch (reason) {
    case 'poweroff':
      return EXIT.ok;
    case 'reboot':
      return EXIT.reboot;
    case 'panic':
    case 'triple-fault':
    case 'error':
      return EXIT.crashed;
    case 'stopped':
      // Nobody who gets this status asked for the stop, and a script must not take it for a power-off.
      return EXIT.failed;
  }
}
