import { asRoot, type Host, readText } from './host.ts';

export type PackageManager = 'apt' | 'dnf' | 'pacman' | 'zypper';

const MANAGERS: ReadonlyMap<string, PackageManager> = new Map([
  ['debian', 'apt'],
  ['ubuntu', 'apt'],
  ['fedora', 'dnf'],
  ['rhel', 'dnf'],
  ['centos', 'dnf'],
  ['arch', 'pacman'],
  ['suse', 'zypper'],
  ['opensuse', 'zypper'],
]);

const INSTALL = {
  apt: 'apt install',
  dnf: 'dnf install',
  pacman: 'pacman -S',
  zypper: 'zypper install',
} as const;

/** The package manager of the distribution, by ID and ID_LIKE of os-release(5). */
export async function packageManager(host: Host): Promise<PackageManager | undefined> {
  const text =
    (await readText(host, '/etc/os-release')) ?? (await readText(host, '/usr/lib/os-release')) ?? '';
  const value = (key: string): string =>
    new RegExp(`^${key}=["']?([^"'\\n]*)`, 'm').exec(text)?.[1]?.toLowerCase() ?? '';
  for (const id of `${value('ID')} ${value('ID_LIKE')}`.split(/\s+/)) {
    const manager = MANAGERS.get(id) ?? (id.startsWith('opensuse') ? 'zypper' : undefined);
    if (manager !== undefined) return manager;
  }
  return undefined;
}

/** The command that installs a package. */
export function installCommand(host: Host, manager: PackageManager, name: string): string {
  return asRoot(host, `${INSTALL[manager]} ${name}`);
}
