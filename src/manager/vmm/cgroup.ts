/** Limits of a VM's process by a control group of its own (Linux, Documentation/admin-guide/cgroup-v2.rst). */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export type Limits = {
  /** CPUs' worth of time, such as 1.5 */
  readonly cpu?: number | undefined;
  /** of the guest's RAM and of what tsvm itself takes, in bytes */
  readonly memory?: number | undefined;
};

/** As {@link Limits}; null: no limit any more */
export type ChangedLimits = { readonly [Kind in keyof Limits]: Limits[Kind] | null };

/** A limit that was asked for cannot be had. */
export class LimitError extends Error {
  override readonly name = 'LimitError';
  readonly code = 'ELIMIT';
  readonly hint =
    'groups are yours to make below a systemd of your own: `systemd-run --user --scope tsvm start …`, or take the limits out of vm.ini';
}

/** How long a period of `cpu.max` is, in microseconds: the kernel's default. */
const PERIOD = 100_000;

/**
 * Puts this process with all its threads into a new group with these limits, beside the group that it is in, or below
 * it: whichever its user may change and has the controllers.
 * @returns the group's folder, which can be removed once the process has ended; undefined where there are no limits
 * @throws LimitError
 */
export function enterLimits(name: string, { cpu, memory }: Limits): string | undefined {
  const files = filesOf({ cpu, memory });
  if (files.length === 0) return undefined;
  const wanted = files.map(([file]) => file.slice(0, file.indexOf('.')));
  const reasons: string[] = [];
  for (const parent of candidates()) {
    const group = join(parent, `tsvm-${name}-${process.pid}`);
    try {
      delegate(parent, wanted);
      mkdirSync(group);
    } catch (error) {
      reasons.push(`${parent}: ${reasonOf(error)}`);
      continue;
    }
    try {
      for (const [file, value] of files) writeFileSync(join(group, file), value);
      writeFileSync(join(group, 'cgroup.procs'), String(process.pid));
      return group;
    } catch (error) {
      reasons.push(`${group}: ${reasonOf(error)}`);
      removeGroup(group);
    }
  }
  throw new LimitError(
    `limits of CPU and memory cannot be had: ${reasons[0] ?? 'this host has no cgroup v2 (cgroup2 is mounted nowhere)'}`,
  );
}

/**
 * Changes limits of a process while it runs.
 * @param group as {@link enterLimits} returned it
 * @param limits null: none any more; undefined: as it is
 * @returns false where they cannot be changed: it has no group, or one without this kind of limit
 */
export function changeLimits(group: string | undefined, limits: ChangedLimits): boolean {
  const files = filesOf(limits);
  if (files.length === 0) return true;
  if (group === undefined) return false;
  try {
    for (const [file, value] of files) writeFileSync(join(group, file), value, { flag: 'r+' });
    return true;
  } catch {
    return false;
  }
}

function filesOf({ cpu, memory }: ChangedLimits): (readonly [file: string, value: string])[] {
  const quota = cpu === null || cpu === undefined ? 'max' : String(Math.round(cpu * PERIOD));
  return [
    ...(cpu === undefined ? [] : [['cpu.max', `${quota} ${PERIOD}`] as const]),
    ...(memory === undefined ? [] : [['memory.max', String(memory ?? 'max')] as const]),
  ];
}

/** Removes the group of a process that has ended. One that is gone, or in use, is left alone. */
export function removeGroup(group: string): void {
  try {
    rmdirSync(group);
  } catch {
    // The next start or the deletion of its VM comes by again.
  }
}

/** The group that this process is in, and those above it, as folders. */
function candidates(): string[] {
  const root = /^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 /m.exec(
    readFileSync('/proc/self/mountinfo', 'utf8'),
  )?.[1];
  const own = /^0::(\/.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
  if (root === undefined || own === undefined) return [];
  const folders: string[] = [];
  for (let path = own; ; path = dirname(path)) {
    const folder = join(root, path);
    if (existsSync(folder)) folders.push(folder);
    if (path === '/') return folders;
  }
}

/** Sees to it that groups below this one have the controllers. */
function delegate(parent: string, wanted: readonly string[]): void {
  const wordsOf = (file: string): string[] => readFileSync(join(parent, file), 'utf8').trim().split(' ');
  const missing = wanted.filter((each) => !wordsOf('cgroup.controllers').includes(each));
  if (missing.length > 0)
    throw new Error(`cgroup v2 has no controller for ${missing.join(' and ')} there, which v1 may have`);
  const enabled = wordsOf('cgroup.subtree_control');
  const more = wanted.filter((each) => !enabled.includes(each));
  if (more.length > 0)
    writeFileSync(join(parent, 'cgroup.subtree_control'), more.map((each) => `+${each}`).join(' '));
}

/** @returns why a group is not to be had */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (!('code' in error)) return error.message;
  switch (error.code) {
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return 'it is not delegated to this user';
    case 'EBUSY':
      return 'processes are in it, and so no limited group can be below it';
    default:
      return String(error.code);
  }
}
