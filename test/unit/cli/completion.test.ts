import { spawnSync } from 'node:child_process';
import { expect, it, test } from 'vitest';
import { bundle } from './support/bundle.ts';
import { runProgram } from './support/run-tsvm.ts';

const TSVM = bundle('../../../../src/cli/main.ts');
const script = (shell: string): string => runProgram(TSVM, ['completion', shell], '/').stdout;

/** What bash offers for a line that ends where the cursor is. */
function offered(...words: readonly string[]): string[] {
  const line = words.map((word) => `'${word}'`).join(' ');
  const commands = `${script('bash')}
tsvm() { [ "$*" = 'list -q' ] && echo web; }
COMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _tsvm 2>/dev/null; echo "\${COMPREPLY[@]}"`;
  return spawnSync('bash', ['-c', commands], { encoding: 'utf8' }).stdout.trim().split(/\s+/);
}

test.each([
  [['tsvm', 'dis'], ['disk']],
  [['tsvm', 'disk', 'conv'], ['convert']],
  [
    ['tsvm', 'disk', 'create', '--backing-fo'],
    ['--backing-format', '--backing-folder'],
  ],
  [['tsvm', 'stop', 'w'], ['web']],
])('bash offers for %j: %j', (words, expected) => {
  expect(offered(...words)).toEqual(expected);
});

it.each(['bash', 'zsh', 'fish'])('has every verb for %s', (shell) => {
  const text = script(shell);
  for (const verb of ['create', 'start', 'console', 'disk', 'doctor']) expect(text).toContain(verb);
  expect(text).not.toContain('vm-process');
});
