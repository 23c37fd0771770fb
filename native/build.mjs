// Builds the addon with node-gyp: `node native/build.mjs [--asan]`.
// node-gyp downloads Node's headers where it must; headers installed beside Node are used before that.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const asan = process.argv.includes('--asan');
const prefix = dirname(dirname(process.execPath));
const headers = existsSync(join(prefix, 'include/node/node_version.h')) ? [`--nodedir=${prefix}`] : [];
// Where tsvm is a dependency, npm's own node-gyp builds it.
const nodeGyp = process.env.npm_config_node_gyp ?? createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
const args = [
  nodeGyp,
  'configure',
  'build',
  '--loglevel=warn',
  `--jobs=max`,
  ...(asan ? ['--debug', '-Dasan=1'] : []),
  ...headers,
];
const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
process.exit(status ?? 1);
