import { build } from 'esbuild';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../..');

/** Compiles the script, with every function that it has, or runs it. */
const LAUNCHER = `
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { programScript, runScript } from './src/cli/launch/script.ts';
const file = join(__dirname, 'program.code');
if (process.argv.length === 2) {
  setFlagsFromString('--no-lazy');
  const script = programScript(__dirname);
  setFlagsFromString('--lazy');
  writeFileSync(file, script.createCachedData());
} else {
  const script = programScript(__dirname, readFileSync(file));
  if (script.cachedDataRejected) throw new Error(file + ' is of another Node');
  runScript(__dirname, script);
}
`;

/**
 * A script that imports from the tree (by paths from its root) in the form that the command `tsvm` has: one file, with
 * V8's code of it beside it. It gets arguments, one at least.
 * @returns the file to be run by Node
 */
export async function compiledScript(contents: string): Promise<string> {
  const name = createHash('sha256').update(contents).digest('hex').slice(0, 16);
  const folder = join(ROOT, '.cache/bench', name);
  mkdirSync(folder, { recursive: true });
  const launcher = join(folder, 'main.cjs');
  const parts = { [launcher]: LAUNCHER, [join(folder, 'program.cjs')]: contents };
  for (const [outfile, text] of Object.entries(parts)) {
    await build({
      stdin: { contents: text, resolveDir: ROOT, loader: 'ts' },
      outfile,
      bundle: true,
      platform: 'node',
      target: 'node20',
      format: 'cjs',
      define: { 'import.meta.url': '__tsvmUrl' },
      banner: { js: "const __tsvmUrl=require('node:url').pathToFileURL(__filename).href;" },
      logLevel: 'error',
    });
  }
  execFileSync(process.execPath, [launcher]);
  return launcher;
}
