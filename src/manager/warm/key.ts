import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../kvm/package-root.ts';
import { hostNetwork } from '../../net/passt/host-network.ts';
import { packageVersion } from '../../kvm/package-version.ts';
import { parseNet } from '../options/net-options.ts';
import type { NewVm } from '../vms/create.ts';

/**
 * What has to be the same for one VM to go on from where another had booted: all that its guest has seen until then.
 * The ports of the host that lead to it are not among that.
 * @returns 64 hexadecimal digits; undefined where a guest has seen what it shares with others: a folder of the host, a
 * network besides its own
 */
export function warmKey(vm: NewVm): string | undefined {
  const { shares = [], networks = ['user'], disk, kernel, initrd } = vm;
  if (shares.length > 0 || networks.some((text) => !isOwn(text))) return undefined;
  const files = [disk.path, kernel, initrd].map((path) => path && identityOf(path));
  const tsvm = [packageVersion(), identityOf(join(packageRoot(), 'dist/program.cjs'))];
  const same: NewVm = { ...vm, name: '', publish: [] };
  // A guest on a network of its own has been told what the host's is like.
  const host = networks.some((text) => parseNet(text) !== 'none') ? hostNetwork() : undefined;
  const text = JSON.stringify({ tsvm, files, same, host });
  return createHash('sha256').update(text).digest('hex');
}

function isOwn(card: string): boolean {
  const choice = parseNet(card);
  return choice === 'none' || choice.kind === 'user';
}

/** Who writes to a file leaves another time on it. */
function identityOf(path: string): string {
  const { dev, ino, size, mtimeNs } = statSync(path, { bigint: true });
  return [path, dev, ino, size, mtimeNs].join(' ');
}
