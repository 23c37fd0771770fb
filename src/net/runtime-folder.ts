import { lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../kvm/system-code.ts';
import { NetworkError } from './network-error.ts';

/**
 * A folder for sockets, of this user alone; it is gone after a restart of the host.
 * @throws NetworkError where it is not to be trusted
 */
export function runtimeFolder(name: string): string {
  const base = baseFolder();
  secureFolder(base);
  const folder = join(base, name);
  secureFolder(folder);
  return folder;
}

function baseFolder(): string {
  const { XDG_RUNTIME_DIR: given } = process.env;
  if (given?.startsWith('/') === true && isOwn(given)) return join(given, 'tsvm');
  const usual = `/run/user/${process.getuid!()}`;
  if (isOwn(usual)) return join(usual, 'tsvm');
  // Others may write there too, which is why it is looked at.
  return `/tmp/tsvm-${process.getuid!()}`;
}

function isOwn(folder: string): boolean {
  try {
    const stats = lstatSync(folder);
    return stats.isDirectory() && stats.uid === process.getuid!();
  } catch {
    return false;
  }
}

function secureFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  }
  const stats = lstatSync(folder);
  if (!stats.isDirectory() || stats.uid !== process.getuid!() || (stats.mode & 0o077) !== 0) {
    throw new NetworkError(
      'EPERM',
      `${folder} is not a folder of this user alone`,
      'remove it, or set XDG_RUNTIME_DIR',
    );
  }
}
