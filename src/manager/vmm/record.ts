/** What a VM's process leaves in the VM's folder about its life. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { writeFileAtomically } from '../atomic-file.ts';
import { jailReport } from './jail-report.ts';

/** held by the process for as long as it lives; the kernel lets go of it, however that ends */
export const PROCESS_LOCK = 'process.lock';
const RECORD = 'process.json';

const record = v.object({
  pid: v.number(),
  /** milliseconds since 1970 */
  startedAt: v.number(),
  version: v.string(),
  /** its control group, where it has limits */
  group: v.optional(v.string()),
  /** what holds it; absent before it is in jail */
  jail: v.optional(v.union([v.literal('off'), jailReport])),
  /** length of the console's log when it began, in bytes */
  consoleFrom: v.optional(v.number()),
  /** absent while it runs, and where it was killed */
  end: v.optional(
    v.object({
      at: v.number(),
      reason: v.string(),
      message: v.string(),
      /** of a crash of the guest: registers and the like */
      report: v.optional(v.string()),
    }),
  ),
});
export type ProcessRecord = v.InferOutput<typeof record>;

export function writeRecord(folder: string, value: ProcessRecord): void {
  writeFileAtomically(join(folder, RECORD), `${JSON.stringify(value)}\n`);
}

/** Undefined where the VM was never started, or the file makes no sense. */
export function readRecord(folder: string): ProcessRecord | undefined {
  try {
    const result = v.safeParse(record, JSON.parse(readFileSync(join(folder, RECORD), 'utf8')));
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}
