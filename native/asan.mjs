// Runs the tests of the addon with a build that checks every memory access (AddressSanitizer) and undefined
// behaviour: `node native/asan.mjs [arguments of vitest]`, after `npm run build:native:asan`.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const root = dirname(import.meta.dirname);
const library = spawnSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).stdout.trim();
if (!library.startsWith('/')) throw new Error('gcc has no libasan.so');
const require = createRequire(import.meta.url);
const vitest = join(dirname(require.resolve('vitest/package.json')), 'vitest.mjs');
const args = process.argv.slice(2);
const { status } = spawnSync(
  process.execPath,
  [vitest, 'run', '--project', 'kvm', '--testTimeout', '240000', ...args],
  {
    stdio: 'inherit',
    cwd: root,
    env: {
      ...process.env,
      // the addon comes into a process that knows nothing of the sanitizer: its library has to be there first
      LD_PRELOAD: library,
      TSVM_ADDON: join(root, '.cache/native-asan/build/Debug/tsvm.node'),
      // Node keeps much to its end, and V8 has its own signal stacks
      ASAN_OPTIONS: 'detect_leaks=0:use_sigaltstack=0:abort_on_error=1:detect_stack_use_after_return=1',
      UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
    },
  },
);
process.exit(status ?? 1);
