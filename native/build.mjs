// Builds the addon with node-gyp: `node native/build.mjs [--asan | --tsan]`.
// With a sanitizer it goes to .cache/native-asan/build/Debug (or -tsan), apart from the one that is in use.
// node-gyp downloads Node's headers where it must; headers installed beside Node are used before that.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const root = dirname(import.meta.dirname);
const sanitizer = ['asan', 'tsan'].find((name) => process.argv.includes(`--${name}`));
const prefix = dirname(dirname(process.execPath));
const headers = existsSync(join(prefix, 'include/node/node_version.h')) ? [`--nodedir=${prefix}`] : [];
const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');

let cwd = root;
if (sanitizer !== undefined) {
  // node-gyp builds beside the binding.gyp that it finds: one that leads to the same sources
  cwd = join(root, '.cache', `native-${sanitizer}`);
  mkdirSync(cwd, { recursive: true });
  for (const name of ['binding.gyp', 'native', 'package.json']) {
    rmSync(join(cwd, name), { force: true });
    symlinkSync(join('../..', name), join(cwd, name));
  }
}
const { status } = spawnSync(
  process.execPath,
  [
    nodeGyp,
    'configure',
    'build',
    '--loglevel=warn',
    `--jobs=max`,
    ...(sanitizer === undefined ? [] : ['--debug', `-Dsanitizer=${sanitizer}`]),
    ...headers,
  ],
  { stdio: 'inherit', cwd },
);
process.exit(status ?? 1);
