import { execa } from 'execa';
import { join } from 'node:path';
import { fetchClosure } from '../../images/debian/packages.ts';

/** Level 1 needs SVM under TCG as it is since then. */
const OLDEST = [7, 2] as const;
const NAME = 'qemu-system-x86_64';

export type Qemu = {
  readonly command: string;
  /** go before all others */
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly version: string;
};

/** QEMU of PATH where it is 7.2 or newer, else Debian's, run out of the package cache without installing it. */
export async function findQemu(): Promise<Qemu> {
  return (await installedQemu()) ?? (await fetchedQemu());
}

async function installedQemu(): Promise<Qemu | undefined> {
  const version = await versionOf(NAME, [], {});
  return version !== undefined && isRecent(version)
    ? { command: NAME, args: [], env: {}, version }
    : undefined;
}

/** Debian's QEMU with all its libraries and its own loader, so it runs on any distribution. */
export async function fetchedQemu(): Promise<Qemu> {
  const { root } = await fetchClosure('qemu-system-x86');
  const libraries = ['lib', 'usr/lib']
    .flatMap((dir) => [join(root, dir, 'x86_64-linux-gnu'), join(root, dir)])
    .concat(join(root, 'usr/lib/x86_64-linux-gnu/pulseaudio'))
    .join(':');
  const command = join(root, 'lib64/ld-linux-x86-64.so.2');
  const args = ['--library-path', libraries, join(root, 'usr/bin', NAME)];
  // Through the loader QEMU cannot find its own place, and so neither its modules nor its firmware.
  const env = { QEMU_MODULE_DIR: join(root, 'usr/lib/x86_64-linux-gnu/qemu') };
  const version = await versionOf(command, args, env);
  if (version === undefined)
    throw new Error(`Debian's QEMU does not run from ${root}; remove it to fetch it anew`);
  const firmware = ['qemu', 'seabios'].flatMap((dir) => ['-L', join(root, 'usr/share', dir)]);
  return { command, args: [...args, ...firmware], env, version };
}

async function versionOf(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<string | undefined> {
  const { stdout, failed } = await execa(command, [...args, '--version'], { reject: false, env });
  return failed ? undefined : /version (\d+\.\d+\.\d+)/.exec(stdout)?.[1];
}

function isRecent(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}
