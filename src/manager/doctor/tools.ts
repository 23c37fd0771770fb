import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';

import { execa } from 'execa';

import type { Check } from './check.ts';
import { installCommand, type PackageManager, packageManager } from './distribution.ts';
import type { Host } from './host.ts';

type Tool = {
  readonly name: string;
  readonly purpose: string;
  /** the package that has it, where the distributions of a package manager have one */
  readonly packages: Readonly<Partial<Record<PackageManager, string>>>;
  readonly home: string;
};

const TOOLS: readonly Tool[] = [
  {
    name: 'passt',
    purpose: 'network of guests without root',
    packages: { apt: 'passt', dnf: 'passt', pacman: 'passt', zypper: 'passt' },
    home: 'https://passt.top',
  },
  {
    name: 'qemu-img',
    purpose: 'converting disk images, and checking qcow2 ones',
    packages: { apt: 'qemu-utils', dnf: 'qemu-img', pacman: 'qemu-img', zypper: 'qemu-img' },
    home: 'https://www.qemu.org',
  },
  {
    name: 'mmdebstrap',
    purpose: 'building Debian images',
    packages: { apt: 'mmdebstrap', dnf: 'mmdebstrap' },
    home: 'https://gitlab.mister-muffin.de/josch/mmdebstrap',
  },
];

/** How long a program may take to tell its version, in milliseconds. */
const VERSION_LIMIT = 5000;

/** The programs that tsvm calls where they are there. */
export async function toolChecks(host: Host): Promise<Check[]> {
  const manager = await packageManager(host);
  return Promise.all(TOOLS.map((tool) => toolCheck(host, tool, manager)));
}

async function toolCheck(host: Host, tool: Tool, manager: PackageManager | undefined): Promise<Check> {
  const { name, purpose } = tool;
  const check = { id: name, title: name, purpose };
  const file = await findProgram(host, name);
  if (file === undefined) {
    const packageName = manager && tool.packages[manager];
    const fix =
      manager !== undefined && packageName !== undefined
        ? installCommand(host, manager, packageName)
        : `install ${name} (${tool.home})`;
    return { ...check, status: 'warning', detail: 'not found', fix };
  }
  const version = await versionOf(file);
  if (version !== undefined) return { ...check, status: 'ok', detail: `${version} (${file})` };
  return {
    ...check,
    status: 'warning',
    detail: `${file} does not tell its version`,
    fix: `see what is wrong: ${file} --version`,
  };
}

async function findProgram(host: Host, name: string): Promise<string | undefined> {
  for (const folder of host.path.split(':').filter(isAbsolute)) {
    const file = join(folder, name);
    try {
      await access(file, constants.X_OK);
      if ((await stat(file)).isFile()) return file;
    } catch {
      // not in this folder
    }
  }
  return undefined;
}

/** The first word with a digit that the program says to --version. */
async function versionOf(file: string): Promise<string | undefined> {
  const { failed, stdout } = await execa(file, ['--version'], {
    reject: false,
    timeout: VERSION_LIMIT,
    stdin: 'ignore',
    stderr: 'ignore',
    maxBuffer: 64 * 1024,
  });
  return failed ? undefined : /\S*\d[^\s,]*/.exec(stdout)?.[0];
}
