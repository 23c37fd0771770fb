/** Who has a lock, for people. The kernel names no process for a lock of an open file description: /proc does. */
import { fstatSync, readdirSync, readFileSync, statSync } from 'node:fs';
import type { FoundLock } from '../kvm/host-file.ts';

const COMMAND_LIMIT = 100;

/**
 * @param fd of the file
 * @returns such as `process 1234 (qemu-system-x86_64 -m 512)`; undefined where it cannot be told: processes of other
 * users can only be looked into by root, and one that was killed has its locks until the kernel has ended its I/O
 */
export function holderOf(fd: number, lock: FoundLock): string | undefined {
  const pid = lock.pid > 0 ? lock.pid : findHolder(fd, lock.start);
  return pid === undefined ? undefined : describeProcess(pid);
}

/** Such as `process 1234 (qemu-system-x86_64 -m 512)`. */
export function describeProcess(pid: number): string {
  if (pid === process.pid) return `this process itself (${pid})`;
  const command = commandOf(pid);
  return `process ${pid}${command === '' ? '' : ` (${command})`}`;
}

/** The process that has a lock of its open file description on a byte; undefined where none can be found. */
export function findHolder(fd: number, byte: number): number | undefined {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  for (const pid of entriesOf('/proc').filter((name) => /^\d+$/.test(name))) {
    for (const other of entriesOf(`/proc/${pid}/fd`)) {
      if (Number(pid) === process.pid && Number(other) === fd) continue;
      try {
        const stats = statSync(`/proc/${pid}/fd/${other}`, { bigint: true });
        if (stats.dev !== dev || stats.ino !== ino) continue;
        if (hasLock(readFileSync(`/proc/${pid}/fdinfo/${other}`, 'utf8'), byte)) return Number(pid);
      } catch {
        // closed meanwhile, or not ours to look at
      }
    }
  }
  return undefined;
}

/** proc(5), fdinfo: `lock: 1: OFDLCK ADVISORY READ -1 fe:01:1234 100 101` for locks of this very description. */
function hasLock(fdinfo: string, byte: number): boolean {
  return [...fdinfo.matchAll(/^lock:.*\sOFDLCK\s.*\s(\d+)\s(\d+|EOF)$/gm)].some(
    ([, start, end]) => Number(start) <= byte && (end === 'EOF' || byte <= Number(end)),
  );
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function commandOf(pid: number): string {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    // A process may call itself what it likes.
    const line = words
      .join(' ')
      .trim()
      .replaceAll(/\p{Cc}/gu, '?');
    return line.length > COMMAND_LIMIT ? `${line.slice(0, COMMAND_LIMIT)}…` : line;
  } catch {
    return '';
  }
}
