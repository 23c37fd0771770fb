import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

function runs(tool: string): boolean {
  return spawnSync(tool, ['--version']).status === 0;
}

/** Why tests against QEMU's tools cannot run here; undefined where they can. */
export const noQemuTools: string | undefined =
  runs('qemu-img') && runs('qemu-io')
    ? undefined
    : 'qemu-img and qemu-io are not installed (package qemu-utils)';

if (noQemuTools !== undefined) console.warn(`skipped: ${noQemuTools}`);

/** @throws Error with what the tool says, unless its status is one of `allowed` */
function run(tool: string, args: readonly string[], allowed: readonly number[] = [0]): string {
  const { status, stdout, stderr } = spawnSync(tool, args, { encoding: 'utf8' });
  if (!allowed.includes(status ?? -1)) throw new Error(`${tool} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

export const qemuImg = (...args: string[]): string => run('qemu-img', args);

/** Executes commands of qemu-io, one after the other. */
export const qemuIo = (path: string, ...commands: string[]): string =>
  run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);

/** As {@link qemuIo}, and then dies without closing the image. */
export function qemuIoAborted(path: string, ...commands: string[]): void {
  const args = [...commands, 'abort'].flatMap((command) => ['-c', command]);
  spawnSync('qemu-io', ['-f', 'qcow2', ...args, path], { cwd: tmpdir() });
}

export type QemuCheck = {
  readonly leaks?: number;
  readonly corruptions?: number;
  readonly 'check-errors': number;
};

/** What `qemu-img check` finds; its status tells the same. */
export const qemuCheck = (path: string): QemuCheck =>
  JSON.parse(run('qemu-img', ['check', '-f', 'qcow2', '--output=json', path], [0, 2, 3])) as QemuCheck;

export function temporaryFolder(): { path: string; file(name: string): string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'tsvm-qcow2-'));
  return {
    path,
    file: (name) => join(path, name),
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
}
