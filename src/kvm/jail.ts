/**
 * What a process that runs a VM gives up, for ever and in all its threads: from here on a bug that lets the guest run
 * code in it gives the guest little. All of these throw KvmError.
 */
import { native } from './native.ts';

/**
 * `read`: files and folders are read. `write`: and written, made, renamed and removed. `device`: a special file is
 * read, written and asked things.
 */
export type PathAccess = 'read' | 'write' | 'device';

/** A file, or a folder with all that is in it. */
export type PathRule = { readonly path: string; readonly access: PathAccess };

/** native/landlock.h has the same order */
const ACCESSES: readonly PathAccess[] = ['read', 'write', 'device'];

/**
 * Leaves the process these files, which all must be there, no other ones, none to execute, no TCP port (Linux 6.7),
 * and no abstract sockets and signals to others (6.12). What is open stays open.
 * @returns the version of Landlock
 */
export function confineToPaths(rules: readonly PathRule[]): number {
  return native().jail.confine(
    rules.map(({ path }) => path),
    rules.map(({ access }) => ACCESSES.indexOf(access)),
  );
}

/** Leaves the process the system calls that running a VM takes: native/seccomp.cc has the list. */
export function filterSystemCalls(): void {
  native().jail.filter();
}

/**
 * No core files, real-time priorities and message queues; and so many descriptors, or as many as can be had.
 * @returns how many
 */
export function limitResources(files: number): number {
  return native().jail.limit(files);
}

/**
 * I/O rings for {@link IoRing}s to come: none can be made where system calls are filtered, and these can do nothing
 * but what an IoRing does.
 * @param entries of each
 * @returns how many there are; 0 where the kernel is older than 5.10, and IoRing takes threads
 */
export function reserveRings(count: number, entries: number): number {
  return native().jail.reserveRings(count, entries);
}
