import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';

import { describe, expect, it, onTestFinished } from 'vitest';

import { bundle } from './support/bundle.ts';
import { haveScript, PseudoTerminal } from './support/pseudo-terminal.ts';

const TSVM = bundle('../../../../src/cli/main.ts');
const VERSION = (JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version;

type Result = { code: number | null; stdout: string; stderr: string };

async function tsvm(...args: string[]): Promise<Result> {
  const child = spawn(process.execPath, [TSVM, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  // A child that hangs must not outlive the test that it fails.
  onTestFinished(() => void child.kill('SIGKILL'));
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<number | null>((resolve) => child.on('close', resolve)),
  ]);
  return { code, stdout, stderr };
}

async function usageError(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await tsvm(...args);
  expect(code).toBe(2);
  expect(stdout).toBe('');
  return stderr;
}

describe('tsvm', () => {
  it('prints its help, with every exit status, when asked', async () => {
    const { code, stdout, stderr } = await tsvm('--help');
    expect(code).toBe(0);
    expect(stderr).toBe('');
    expect(stdout).toContain('Examples:');
    expect(stdout.match(/^ {2}\d+(?= )/gm)?.map(Number)).toEqual([
      0, 1, 2, 3, 4, 124, 129, 130, 131, 141, 143,
    ]);
  });

  it('is wrong usage without a verb, and shows the help', async () => {
    expect(await usageError()).toContain('Usage: tsvm');
  });

  it.each(['run', 'doctor', 'version'])('has help with examples for %s', async (verb) => {
    const { code, stdout } = await tsvm(verb, '--help');
    expect(code).toBe(0);
    expect(stdout).toContain(`Usage: tsvm ${verb}`);
    expect(stdout).toMatch(/Examples:\n {2}/);
    expect(stdout).toContain('--debug');
  });

  it('prints its version', async () => {
    expect(await tsvm('--version')).toEqual({ code: 0, stdout: `${VERSION}\n`, stderr: '' });
  });

  it('answers an unknown verb with the nearest one', async () => {
    expect(await usageError('docter')).toBe("tsvm: unknown command 'docter'\nhint: did you mean doctor?\n");
    expect(await usageError('xyzzy')).toBe("tsvm: unknown command 'xyzzy'\nhint: see 'tsvm --help'\n");
  });

  it('answers an unknown option with the nearest one', async () => {
    expect(await usageError('run', '--kernl', 'x')).toBe(
      "tsvm: unknown option '--kernl'\nhint: did you mean --kernel?\n",
    );
    expect(await usageError('version', '--xyzzy')).toBe(
      "tsvm: unknown option '--xyzzy'\nhint: see 'tsvm version --help'\n",
    );
  });

  it('refuses arguments too many', async () => {
    expect(await usageError('version', 'please')).toMatch(/^tsvm: too many arguments for 'version'/);
  });
});

describe('tsvm run', () => {
  it('needs a kernel', async () => {
    expect(await usageError('run')).toBe(
      "tsvm: an image, or --kernel, is required\nhint: see 'tsvm run --help'\n",
    );
  });

  it.each([
    ['--mem', '12X', 'not a size'],
    ['--cpus', '0', 'not a whole number from 1 to 32'],
    ['--cpus', '33', 'not a whole number from 1 to 32'],
    ['--cpus', '1.5', 'not a whole number from 1 to 32'],
    ['--timeout', '0', 'not a number of seconds'],
    ['--timeout', 'soon', 'not a number of seconds'],
    ['--timeout', '9999999', 'not a number of seconds'],
  ])('refuses %s %s', async (option, value, why) => {
    const stderr = await usageError('run', '--kernel', 'vmlinuz', option, value);
    expect(stderr).toMatch(
      new RegExp(`^tsvm: option '${option} <\\w+>' argument '${value}' is invalid: ${why}`),
    );
    expect(stderr).toContain("hint: see 'tsvm run --help'");
  });
});

describe('tsvm version', () => {
  it('prints the versions that matter', async () => {
    const { code, stdout } = await tsvm('version');
    expect(code).toBe(0);
    const kernel = readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
    expect(stdout).toContain(`tsvm ${VERSION}\nNode.js ${process.versions.node}\nLinux ${kernel}\nKVM API `);
  });

  it('prints them as JSON', async () => {
    const { code, stdout } = await tsvm('version', '--json');
    expect(code).toBe(0);
    const versions = JSON.parse(stdout) as Record<string, unknown>;
    expect(versions).toMatchObject({ tsvm: VERSION, node: process.versions.node });
    expect([12, null]).toContain(versions['kvmApi']);
  });
});

describe('tsvm doctor', () => {
  it('says the same in its JSON, its text and its exit status', async () => {
    const [json, plain] = [await tsvm('doctor', '--json'), await tsvm('doctor')];
    const report = JSON.parse(json.stdout) as { usable: boolean; checks: { status: string }[] };
    expect(Object.keys(report)).toEqual(['usable', 'checks']);
    expect(report.usable).toBe(report.checks.every(({ status }) => status !== 'missing'));
    expect(json.code).toBe(report.usable ? 0 : 1);
    expect(plain.code).toBe(json.code);
    expect(plain.stdout).toContain(report.usable ? '\nThis machine can run guests.\n' : 'cannot run guests');
    expect(plain.stdout).not.toContain('\x1b');
    expect(plain.stderr).toBe('');
  });
});

describe.skipIf(!haveScript)('tsvm doctor on a terminal', () => {
  async function report(setting: string): Promise<string> {
    using terminal = new PseudoTerminal(
      TSVM,
      `unset NO_COLOR FORCE_COLOR CI; TERM=xterm ${setting} $PROGRAM doctor`,
    );
    await terminal.ended();
    return terminal.output;
  }

  it('is a table with colours', async () => {
    expect(await report('')).toMatch(/^\x1b\[3\dm(ok {5}|missing)\x1b\[39m {2}KVM device {2,}\S/);
  });

  it('has no colours with NO_COLOR', async () => {
    const text = await report('NO_COLOR=1');
    expect(text).toMatch(/^(ok {5}|missing) {2}KVM device {2,}\S/);
    expect(text).not.toContain('\x1b');
  });
});

describe('standard output', () => {
  it('that is full is an error', async () => {
    const full = openSync('/dev/full', 'w');
    const child = spawn(process.execPath, [TSVM, 'version'], { stdio: ['ignore', full, 'pipe'] });
    closeSync(full);
    const stderr = text(child.stderr!);
    expect(await new Promise((resolve) => child.on('close', resolve))).toBe(1);
    expect(await stderr).toMatch(/^tsvm: write failed on standard output: .*no space left/);
  });

  it('that nobody reads ends it as SIGPIPE would', async () => {
    const child = spawn(process.execPath, [TSVM, 'doctor'], { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    const stderr = text(child.stderr);
    const code = await new Promise((resolve) => child.on('close', resolve));
    expect(await stderr).toBe('');
    expect([1, 141]).toContain(code);
  });
});
