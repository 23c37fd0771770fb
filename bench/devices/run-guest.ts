import { execa } from 'execa';
import { parseResult, type DiskLoadResult } from '../../test/guests/disk-load.ts';
import type { Contender } from './contenders.ts';

/** The guest's clock may be off the host's by so much, and its output late by so many milliseconds. */
const CLOCK_TOLERANCE = 0.1;
const OUTPUT_MS = 250;

/** Runs the guest program and returns its results. @throws where it fails, or where its time is not the host's */
export async function runGuest(
  contender: Contender,
  words: readonly string[],
  { warmUpMs, limitMs }: { readonly warmUpMs: number; readonly limitMs: number },
): Promise<DiskLoadResult[]> {
  const [command, ...args] = await contender.command(words);
  const child = execa(command, args, {
    env: contender.env,
    stdin: 'ignore',
    timeout: limitMs,
    reject: false,
    all: true,
  });
  const results: DiskLoadResult[] = [];
  const strange: string[] = [];
  let started = 0;
  let ended = false;
  for await (const raw of child.iterable()) {
    const line = raw.trim();
    if (line.startsWith('start ')) started = performance.now();
    ended ||= line === 'end';
    const result = parseResult(line);
    if (result === undefined) continue;
    results.push(result);
    const host = performance.now() - started - warmUpMs;
    const guest = result.ns / 1e6;
    // Requests in flight are waited for at both ends.
    const slack = OUTPUT_MS + (2 * result.max) / 1e6;
    if (Math.abs(host - guest) > slack + CLOCK_TOLERANCE * guest) {
      strange.push(`${line}: ${guest.toFixed(0)} ms of the guest were ${host.toFixed(0)} ms of the host`);
    }
  }
  const { all } = await child;
  // QEMU's exit device makes an odd status of every end, so the program's last word counts.
  if (!ended) throw new Error(`${contender.name} did not finish:\n${all.slice(-2000)}`);
  if (strange.length > 0) throw new Error(`${contender.name}: ${strange.join('\n')}`);
  return results;
}
