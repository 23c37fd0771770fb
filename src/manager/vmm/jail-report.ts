/** What a VM's process says of its jail. */
import * as v from 'valibot';

/** What is in force. */
export const jailReport = v.object({
  /** version of Landlock that keeps it to its files; 0: none */
  landlock: v.number(),
  /** whether system calls are filtered */
  seccomp: v.boolean(),
  /** how many files it may have open */
  openFiles: v.number(),
  /** what could not be had, and why */
  unavailable: v.array(v.string()),
});
export type JailReport = v.InferOutput<typeof jailReport>;

/** In one line. */
export function describeJail({ landlock, seccomp, openFiles, unavailable }: JailReport): string {
  return [
    ...(landlock > 0 ? [`Landlock ABI ${landlock}`] : []),
    ...(seccomp ? ['seccomp filter', 'no new privileges'] : []),
    `${openFiles} open files`,
    ...unavailable,
  ].join(', ');
}
