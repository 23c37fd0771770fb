/** How the host's ssh reaches a VM: by a port of this host that leads to the guest's port 22. */
import { join, resolve } from 'node:path';
import { parseForward, type PortForward } from '../../net/forward.ts';
import type { VmSettings } from '../vms/settings.ts';
import { VmStoreError } from '../vms/store.ts';

const SSH_PORT = 22;
/** in the VM's folder: the guest's host key, as it was at the first connection */
const KNOWN_HOSTS = 'ssh_known_hosts';
/** Its name in that file: the VM may be renamed, and its port may change. */
const HOST_KEY_NAME = 'tsvm-guest';
/** in seconds */
const CONNECT_TIMEOUT = 15;

export type SshTarget = { readonly address: string; readonly port: number };

/**
 * The first published port that leads to the guest's ssh.
 * @throws VmStoreError (ENOSSH) that says what to do
 */
export function sshTargetOf(name: string, { network }: VmSettings): SshTarget {
  const forwards = network.publish.map(parseForward);
  const found = forwards.find(
    ({ protocol, host, guest, count }) =>
      protocol === 'tcp' && host !== 0 && guest <= SSH_PORT && SSH_PORT < guest + count,
  );
  if (found === undefined) {
    const isFree = forwards.some(({ guest, host }) => guest === SSH_PORT && host === 0);
    throw new VmStoreError(
      'ENOSSH',
      isFree
        ? `port 22 of the VM '${name}' is published at a port that nobody knows before it runs`
        : `port 22 of the VM '${name}' is not published`,
      `stop it, write \`publish.${isFree ? 'N' : forwards.length} = 2222:22\` under [network] of its vm.ini, and start it; or make it with \`tsvm create --publish 2222:22\`; \`tsvm shell ${name}\` needs no port`,
    );
  }
  return { address: connectAddress(found), port: found.host + SSH_PORT - found.guest };
}

/** One listens on all addresses, and connects to one. */
function connectAddress({ address }: PortForward): string {
  if (address === '*' || address === '0.0.0.0') return '127.0.0.1';
  return address === '::' ? '::1' : address;
}

export type SshOptions = {
  /** who logs in; default: the VM's user, or ssh's own default */
  readonly user?: string;
  /** options of ssh, and a command */
  readonly args?: readonly string[];
};

/**
 * Arguments of ssh. The guest's host key is that of the first connection, kept in the VM's folder; the user's own files
 * know nothing of it.
 * @param folder of the VM
 */
export function sshArguments(
  folder: string,
  settings: VmSettings,
  { address, port }: SshTarget,
  { user = settings.vm.user, args = [] }: SshOptions = {},
): string[] {
  const options = [
    `Port=${port}`,
    `HostKeyAlias=${HOST_KEY_NAME}`,
    `UserKnownHostsFile=${pathValue(join(folder, KNOWN_HOSTS))}`,
    'GlobalKnownHostsFile=/dev/null',
    'StrictHostKeyChecking=accept-new',
    'UpdateHostKeys=no',
    'CheckHostIP=no',
    `ConnectTimeout=${CONNECT_TIMEOUT}`,
    // The user's agent may have more keys than a server tries.
    ...(settings.vm.sshKey === undefined
      ? []
      : [`IdentityFile=${pathValue(resolve(folder, settings.vm.sshKey))}`, 'IdentitiesOnly=yes']),
    ...(user === undefined ? [] : [`User=${user}`]),
  ];
  return [...options.flatMap((option) => ['-o', option]), address, ...args];
}

/** ssh_config(5): spaces need quotes, and `%` begins a token. */
const pathValue = (path: string): string =>
  `"${path.replaceAll('%', '%%').replaceAll(/["\\]/g, (character) => `\\${character}`)}"`;
