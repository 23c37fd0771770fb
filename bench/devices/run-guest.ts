import { execa } from 'execa';
import { parseResult, type DiskLoadResult } from '../../test/guests/disk-load.ts';
import type { Contender } from './contenders.ts';

/** All the guest's time may be off the host's by so much, and its output late by so many milliseconds. */
const CLOCK_TOLERANCE = 0.15;
const OUTPUT_MS = 500;

/** Runs the guest program and returns its results. @throws where it fails, or where its time is not the host's */
export async function runGuest(
  contender: Contender,
  words: readonly string[],
  limitMs: number,
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
  let started = 0;
  let hostMs = 0;
  let ended = false;
  for await (const raw of child.iterable()) {
    const line = raw.trim();
    if (line.startsWith('start ')) started = performance.now();
    ended ||= line === 'end';
    const result = parseResult(line);
    if (result === undefined) continue;
    results.push(result);
    hostMs += performance.now() - started;
  }
  const { all } = await child;
  // QEMU's exit device makes an odd status of every end, so the program's last word counts.
  if (!ended) throw new Error(`${contender.name} did not finish:\n${all.slice(-2000)}`);
  const guestMs = results.reduce((sum, { took }) => sum + took, 0) / 1e6;
  if (Math.abs(hostMs - guestMs) > OUTPUT_MS + CLOCK_TOLERANCE * hostMs) {
    throw new Error(
      `${contender.name}: ${guestMs.toFixed(0)} ms of the guest were ${hostMs.toFixed(0)} ms of the host`,
    );
  }
  return results;
}
