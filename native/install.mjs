// What npm runs where tsvm is installed: builds the addon, and compiles the command's program for this Node. In a
// checkout there is no program yet; `npm run build` makes it.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

function run(script) {
  const { status } = spawnSync(process.execPath, [script], { stdio: 'inherit' });
  return status ?? 1;
}

const built = run(join(import.meta.dirname, 'build.mjs'));
if (built !== 0) process.exit(built);
const compile = join(dirname(import.meta.dirname), 'dist/compile-ahead.cjs');
// Without it tsvm only starts later.
if (existsSync(compile) && run(compile) !== 0) console.warn('tsvm: its program is compiled at every start');
