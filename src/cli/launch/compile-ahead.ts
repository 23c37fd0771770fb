/** Compiles the program for this Node, and keeps that beside it: `node dist/compile-ahead.cjs`. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import type { Script } from 'node:vm';
import { codeFile, type CodeSet, programScript, runScript } from './script.ts';

function keep(script: Script, set: CodeSet): void {
  const file = codeFile(__dirname, set);
  const part = `${file}.${process.pid}`;
  try {
    writeFileSync(part, script.createCachedData());
    renameSync(part, file);
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  }
}

/** Every function, whether it runs when the program is loaded or not. */
function keepAll(): void {
  // V8 takes code only under the flags that it was written under.
  setFlagsFromString('--no-lazy');
  const script = programScript(__dirname);
  setFlagsFromString('--lazy');
  keep(script, 'all');
}

/** What has been compiled when this process, which is then a command that lists no VMs, exits. */
function keepCommon(): void {
  const script = programScript(__dirname);
  process.on('exit', () => keep(script, 'common'));
  runScript(__dirname, script);
}

if (process.argv.includes('list')) {
  keepCommon();
} else {
  keepAll();
  const home = mkdtempSync(join(tmpdir(), 'tsvm-'));
  try {
    const { status } = spawnSync(process.execPath, [__filename, 'list'], {
      env: { ...process.env, TSVM_HOME: home },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (status !== 0) throw new Error(`\`${__filename} list\` has ended with status ${status}`);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}
