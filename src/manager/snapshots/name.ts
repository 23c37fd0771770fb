import { VmNameError, isVmName } from '../vms/name.ts';

/** A snapshot's name is a file's, and follows that of its VM after an `@`. @throws VmNameError */
export function checkSnapshotName(name: string): string {
  if (isVmName(name)) return name;
  throw new VmNameError(
    `'${name}' is no name for a snapshot: 1 to 63 lower-case letters, digits and dashes, with no dash at either end`,
  );
}

/** The name of one that gets none: `snapshot1`, `snapshot2`, … */
export function freeSnapshotName(names: readonly string[]): string {
  const numbers = names.map((name) => Number(/^snapshot(\d{1,9})$/.exec(name)?.[1] ?? 0));
  return `snapshot${Math.max(0, ...numbers) + 1}`;
}
