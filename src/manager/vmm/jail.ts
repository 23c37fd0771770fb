/** The jail of a VM's process: what it gives up before its guest runs. */
import { confineToPaths, filterSystemCalls, limitResources, reserveRings } from '../../kvm/jail.ts';
import { KvmError } from '../../kvm/errors.ts';
import { DEFAULT_ENTRIES } from '../../kvm/io-ring.ts';
import type { JailPaths } from './jail-paths.ts';
import type { JailReport } from './jail-report.ts';

/** Disks and shares of a VM use one ring. */
const RINGS = 1;

/** To be called before what the jail is for opens anything: no other rings can be made in there. */
export function prepareJail(): void {
  reserveRings(RINGS, DEFAULT_ENTRIES);
}

/**
 * Leaves this process what its VM needs, for ever; new privileges, a session's terminal and core files it has not
 * either. A network namespace of its own is not among it: a process with threads, which Node always has, gets none
 * without privileges (unshare(2), CLONE_NEWUSER), and one that was given one at its start could neither open taps nor
 * check ports of the host. Instead no socket of another family than AF_UNIX can be made.
 *
 * What this kernel does not know is done without, and told.
 */
export function enterJail({ rules, files }: JailPaths): JailReport {
  const unavailable: string[] = [];
  const attempt = <T>(what: string, otherwise: T, enter: () => T): T => {
    try {
      return enter();
    } catch (error) {
      if (!(error instanceof KvmError)) throw error;
      unavailable.push(`${what} unavailable because ${reasonOf(error)}`);
      return otherwise;
    }
  };
  const openFiles = limitResources(files);
  const landlock = attempt('Landlock', 0, () => confineToPaths(rules));
  const seccomp = attempt('seccomp', false, () => {
    filterSystemCalls();
    return true;
  });
  return { landlock, seccomp, openFiles, unavailable };
}

/** landlock(7): what landlock_create_ruleset(2) fails with where it is built in and not there. */
function reasonOf({ code, message }: KvmError): string {
  if (code === 'ENOSYS') return 'the kernel has not got it';
  return code === 'EOPNOTSUPP' ? 'it is switched off at boot' : message;
}
