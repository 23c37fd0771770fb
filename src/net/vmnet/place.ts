import { join } from 'node:path';
import { NetworkError } from '../network-error.ts';
import { runtimeFolder } from '../runtime-folder.ts';

/** Its socket's path has to fit into 107 bytes, and its domain into a label. */
const NAME_LIMIT = 32;

/** Where a network's switch and its users meet. */
export type VmnetPlace = {
  readonly name: string;
  readonly socket: string;
  /** locked by the switch that runs */
  readonly lock: string;
  readonly leases: string;
  readonly log: string;
};

/** @returns the name. @throws NetworkError where a network cannot be called so */
export function checkVmnetName(name: string): string {
  if (/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(name) && name.length <= NAME_LIMIT) return name;
  throw new NetworkError(
    'EINVAL',
    `'${name}' is no name of a network: 1 to ${NAME_LIMIT} lower-case letters, digits and dashes, no dash at an end`,
  );
}

/** @throws NetworkError */
export function vmnetPlace(name: string, folder = runtimeFolder('vmnet')): VmnetPlace {
  const base = join(folder, checkVmnetName(name));
  return { name, socket: `${base}.sock`, lock: `${base}.lock`, leases: `${base}.leases`, log: `${base}.log` };
}
