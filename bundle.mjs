// Bundles src into dist with esbuild, and compiles the command's program ahead: `node bundle.mjs`.
import { build } from 'esbuild';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const root = import.meta.dirname;
const dist = join(root, 'dist');

// Large, and what few commands need: they are read where one does.
const RARE = ['@xterm/headless', 'execa', 'tar', 'undici', 'zstddec'];

const common = {
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node20',
  legalComments: 'none',
  logLevel: 'warning',
};
// CommonJS has no import.meta.
const commonJs = {
  ...common,
  format: 'cjs',
  define: { 'import.meta.url': '__tsvmUrl' },
  banner: { js: "const __tsvmUrl=require('node:url').pathToFileURL(__filename).href;" },
};

mkdirSync(dist, { recursive: true });
for (const name of readdirSync(dist, { withFileTypes: true })
  .filter((each) => each.isFile() || each.name === 'chunks')
  .map((each) => each.name))
  rmSync(join(dist, name), { recursive: true });

// The library, for both kinds of modules.
await build({
  ...common,
  entryPoints: { index: 'src/index.ts' },
  format: 'esm',
  splitting: true,
  outdir: 'dist',
  chunkNames: 'chunks/[name]-[hash]',
  banner: {
    js: "import{createRequire as __tsvmRequire}from'node:module';const require=__tsvmRequire(import.meta.url);",
  },
});
await build({ ...commonJs, entryPoints: ['src/index.ts'], outfile: 'dist/index.cjs' });

// The command: its launcher, its program, and the packages that this may ask for.
await build({
  ...commonJs,
  entryPoints: ['src/cli/main.ts'],
  outfile: 'dist/program.cjs',
  external: RARE,
  // Node itself would look for them; the launcher knows where they are.
  supported: { 'dynamic-import': false },
});
await build({
  ...commonJs,
  stdin: {
    contents: `module.exports = {${RARE.map((name) => `'${name}': () => require('${name}')`).join()}};`,
    resolveDir: root,
  },
  outfile: 'dist/packages.cjs',
});
const program = createHash('sha256')
  .update(readFileSync(join(dist, 'program.cjs')))
  .digest('hex');
await build({
  ...common,
  format: 'cjs',
  entryPoints: { tsvm: 'src/cli/launch/main.ts', 'compile-ahead': 'src/cli/launch/compile-ahead.ts' },
  define: { PROGRAM_ID: JSON.stringify(program.slice(0, 16)) },
  outdir: 'dist',
  outExtension: { '.js': '.cjs' },
});
const { status } = spawnSync(process.execPath, [join(dist, 'compile-ahead.cjs')], { stdio: 'inherit' });
process.exit(status ?? 1);
