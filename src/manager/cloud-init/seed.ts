/**
 * The seed of a guest's first boot: a disk that cloud-init's data source NoCloud finds by its label. What is ours goes
 * into meta data and vendor data, and the user's file is the user data as it is, of whatever kind: cloud-init itself
 * lays it over ours, as it does in every cloud.
 */
import { createHash, randomUUID } from 'node:crypto';

import { agentScript } from './agent.ts';
import { CloudInitError } from './errors.ts';
import { FAT_CAPACITY, fatVolume } from './fat.ts';
import { checkUserData } from './user-data.ts';
import { toYaml, type Yaml } from './yaml.ts';

/** A network interface of the guest, found by its address. */
export type SeedInterface = {
  /** such as 52:54:00:12:34:56 */
  readonly mac: string;
  /** default true */
  readonly dhcp4?: boolean;
  /** by DHCPv6; addresses of router advertisements it takes anyhow. Default false */
  readonly dhcp6?: boolean;
  /** with the length of the prefix, such as 10.0.2.15/24 */
  readonly addresses?: readonly string[];
  readonly gateways?: readonly string[];
  readonly nameservers?: readonly string[];
};

export type SeedOptions = {
  readonly hostname: string;
  /** what tells an instance from its clones; default: a new one */
  readonly instanceId?: string;
  /** the user who may log in; default: the image's own */
  readonly user?: string;
  /** public keys, as in authorized_keys, that may log in as this user */
  readonly sshKeys?: readonly string[];
  /** of that user, as crypt(5) writes it: for the console; by ssh only with `sshPassword`. Default: none */
  readonly passwordHash?: string;
  /** whether passwords are good for ssh too. Default false */
  readonly sshPassword?: boolean;
  /** default: cloud-init's own, DHCP on the first interface */
  readonly interfaces?: readonly SeedInterface[];
  /** the guest agent: to be installed where it is not there, started only, or none of our business. Default `install` */
  readonly agent?: 'install' | 'start' | 'none';
  /** the user's file for cloud-init */
  readonly userData?: { readonly content: Uint8Array; readonly name: string };
};

export type Seed = {
  readonly instanceId: string;
  /** bytes of a disk */
  readonly disk: Uint8Array;
  /** the same by the names of the files */
  readonly files: Readonly<Record<string, Uint8Array>>;
};

/** cloud-init takes it in capital letters as well as in small ones, which FAT does not have in a label. */
const LABEL = 'CIDATA';
const HEADER = '#cloud-config\n';

/** @throws CloudInitError on an option that cannot be */
export function makeSeed(options: SeedOptions): Seed {
  const { hostname, userData, interfaces, sshKeys = [] } = options;
  const instanceId = options.instanceId ?? `tsvm-${randomUUID()}`;
  check(/^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$/.test(instanceId), `no identifier of an instance: ${instanceId}`);
  // RFC 1123, 2.1
  check(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i.test(hostname),
    `no name of a host: ${hostname}`,
    'up to 63 letters, digits and - between them',
  );
  for (const key of sshKeys) checkKey(key);
  if (userData !== undefined) checkUserData(userData.content, userData.name);
  const text: Record<string, string | undefined> = {
    'meta-data': toYaml({
      'instance-id': instanceId,
      'local-hostname': hostname,
      // Here, not in a configuration: keys of the user's file come on top of these, and never in their stead.
      ...(sshKeys.length > 0 && { 'public-keys': sshKeys.map((key) => key.trim()) }),
    }),
    'vendor-data': vendorData(options),
    'network-config':
      interfaces === undefined || interfaces.length === 0 ? undefined : networkConfig(interfaces),
    // It has to be there.
    'user-data': userData === undefined ? `${HEADER}{}\n` : undefined,
  };
  const files: Record<string, Uint8Array> = {};
  for (const [name, content] of Object.entries(text))
    if (content !== undefined) files[name] = Buffer.from(content);
  if (userData !== undefined) files['user-data'] = userData.content;
  return { instanceId, disk: seedDisk(instanceId, files), files };
}

/** Bytes of a disk with these files. @throws CloudInitError where they are too large for it */
export function seedDisk(instanceId: string, files: Seed['files']): Uint8Array {
  const size = Object.values(files).reduce((sum, { length }) => sum + length + 512, 0);
  check(size <= FAT_CAPACITY, 'all of it together is too large for the disk of cloud-init');
  const serial = createHash('sha256').update(instanceId).digest().readUInt32LE();
  return fatVolume(
    LABEL,
    serial,
    Object.entries(files).map(([name, content]) => ({ name, content })),
  );
}

function vendorData(options: SeedOptions): string {
  const { user, passwordHash, sshPassword = false, agent = 'install' } = options;
  if (user !== undefined) {
    check(
      /^[a-z_][a-z0-9_-]{0,31}$/.test(user) && user !== 'root',
      `cannot be the user of a guest: ${user}`,
      'small letters, digits, - and _, and not root',
    );
  }
  if (passwordHash !== undefined) {
    check(
      /^\$[a-z0-9]{1,8}\$[!-~]{8,250}$/i.test(passwordHash) && !/[:\\]/.test(passwordHash),
      'the password is no hash as crypt(5) writes it',
      'make one with `openssl passwd -6`',
    );
  }
  const config: Yaml = {
    // Changes the user that the image has by default, and leaves sudo and groups as they are with it.
    ...(user !== undefined && { user: { name: user } }),
    ...(passwordHash !== undefined && {
      password: passwordHash,
      chpasswd: { expire: false },
    }),
    ssh_pwauth: sshPassword,
  };
  const parts: Yaml = [
    { type: 'text/cloud-config', filename: 'tsvm.yaml', content: HEADER + toYaml(config) },
    ...(agent === 'none'
      ? []
      : [
          {
            type: 'text/x-shellscript',
            filename: 'tsvm-agent.sh',
            content: agentScript(agent === 'install'),
          },
        ]),
  ];
  return `#cloud-config-archive\n${toYaml(parts)}`;
}

/** "Networking config Version 2" of cloud-init's manual. A name of its own each: not every distribution finds by address. */
function networkConfig(interfaces: readonly SeedInterface[]): string {
  const ethernets: Record<string, Yaml> = {};
  const macs = new Set<string>();
  interfaces.forEach((each, at) => {
    const mac = each.mac.toLowerCase();
    check(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac), `no address of a network interface: ${mac}`);
    check(!macs.has(mac), `two network interfaces have the address ${mac}`);
    macs.add(mac);
    for (const address of [...(each.addresses ?? []), ...(each.gateways ?? []), ...(each.nameservers ?? [])])
      check(/^[0-9A-Fa-f.:/]{2,49}$/.test(address), `no address of a host or network: ${address}`);
    const name = `eth${at}`;
    ethernets[name] = {
      match: { macaddress: mac },
      'set-name': name,
      dhcp4: each.dhcp4 ?? true,
      ...(each.dhcp6 === true && { dhcp6: true }),
      ...(each.addresses !== undefined && { addresses: each.addresses }),
      ...(each.gateways !== undefined && {
        routes: each.gateways.map((via) => ({ to: via.includes(':') ? '::/0' : '0.0.0.0/0', via })),
      }),
      ...(each.nameservers !== undefined && { nameservers: { addresses: each.nameservers } }),
    };
  });
  return toYaml({ version: 2, ethernets });
}

function checkKey(key: string): void {
  check(
    /^(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( [^\p{Cc}]*)?$/u.test(key.trim()) &&
      key.length < 20_000,
    `no public key of ssh: ${key.slice(0, 40)}`,
    'a line like `ssh-ed25519 AAAA... comment`, as in ~/.ssh/id_ed25519.pub',
  );
}

function check(isRight: boolean, message: string, hint?: string): asserts isRight {
  if (!isRight) throw new CloudInitError(message, hint);
}
