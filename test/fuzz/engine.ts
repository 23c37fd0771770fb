/** Runs cases of a target until one fails, and keeps what it takes to run that one again. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import * as v from 'valibot';
import { Random } from './random.ts';

export type FuzzTarget = {
  readonly name: string;
  /**
   * Makes one input and checks what becomes of it; throws where that is wrong. The same numbers must make the same
   * case: no state may stay from one to the next.
   */
  run(random: Random): void | Promise<void>;
};

export type FuzzOptions = {
  readonly iterations: number;
  readonly seed: number;
  /** where a failed case is written; default nowhere */
  readonly artifacts?: string;
  /** told every so many cases */
  readonly progress?: (done: number) => void;
};

export type FuzzFailure = {
  readonly target: string;
  /** of the case alone */
  readonly seed: number;
  readonly error: unknown;
  /** file to run it again with */
  readonly artifact: string | undefined;
};

const PROGRESS_EVERY = 10_000;
/** A case that takes this long hangs. */
const CASE_LIMIT_MS = 10_000;

/** Each case has a seed of its own, so it runs again without those before it. */
const seedOf = (seed: number, iteration: number): number =>
  new Random((seed ^ Math.imul(iteration, 0x9e37_79b1)) >>> 0).word();

export async function fuzz(target: FuzzTarget, options: FuzzOptions): Promise<FuzzFailure | undefined> {
  const { iterations, seed, artifacts } = options;
  const watchdog = artifacts === undefined ? undefined : watch(target.name, artifacts);
  try {
    for (let i = 0; i < iterations; i++) {
      const caseSeed = seedOf(seed, i);
      watchdog?.begin(caseSeed);
      try {
        const done = target.run(new Random(caseSeed));
        if (done !== undefined) await done;
      } catch (error) {
        const artifact = artifacts && writeArtifact(artifacts, target.name, caseSeed, describe(error));
        return { target: target.name, seed: caseSeed, error, artifact };
      }
      if ((i + 1) % PROGRESS_EVERY === 0) options.progress?.(i + 1);
    }
    return undefined;
  } finally {
    await watchdog?.end();
  }
}

const artifactSchema = v.object({ target: v.string(), seed: v.number() });

/** What a failed case was. @throws where the file is none of ours */
export function readArtifact(path: string): { target: string; seed: number } {
  return v.parse(artifactSchema, JSON.parse(readFileSync(path, 'utf8')));
}

function artifactPath(folder: string, target: string, seed: number): string {
  return join(folder, `${target}-${seed.toString(16).padStart(8, '0')}.json`);
}

function writeArtifact(folder: string, target: string, seed: number, error: string): string {
  mkdirSync(folder, { recursive: true });
  const path = artifactPath(folder, target, seed);
  writeFileSync(path, `${JSON.stringify({ target, seed, error }, null, 2)}\n`);
  return path;
}

const describe = (error: unknown): string =>
  error instanceof Error ? (error.stack ?? error.message) : String(error);

/** An endless loop cannot report itself: another thread writes the artifact and ends the process. */
function watch(target: string, folder: string): { begin(seed: number): void; end(): Promise<void> } {
  mkdirSync(folder, { recursive: true });
  const shared = new Uint32Array(new SharedArrayBuffer(8));
  const source = `
    const { workerData: { shared, target, folder, limit } } = require('node:worker_threads');
    const { writeFileSync } = require('node:fs');
    let count = -1, since = Date.now();
    setInterval(() => {
      const now = Atomics.load(shared, 0);
      if (now !== count) { count = now; since = Date.now(); return; }
      if (Date.now() - since < limit) return;
      const seed = Atomics.load(shared, 1);
      const path = folder + '/' + target + '-' + seed.toString(16).padStart(8, '0') + '.json';
      writeFileSync(path, JSON.stringify({ target, seed, error: 'the case does not end' }) + '\\n');
      process._rawDebug('a case of ' + target + ' does not end: ' + path);
      process.kill(process.pid, 'SIGKILL');
    }, 500);`;
  const workerData = { shared, target, folder, limit: CASE_LIMIT_MS };
  const worker = new Worker(source, { eval: true, workerData });
  worker.unref();
  return {
    begin: (seed) => {
      Atomics.store(shared, 1, seed);
      Atomics.add(shared, 0, 1);
    },
    end: async () => {
      await worker.terminate();
    },
  };
}
