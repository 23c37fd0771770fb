import { gzipSync } from 'node:zlib';

import { beforeAll, describe, expect, it } from 'vitest';

import { makeSeed, type SeedOptions } from '../../../../src/manager/cloud-init/seed.ts';
import { USER_DATA_LIMIT } from '../../../../src/manager/cloud-init/user-data.ts';
import { toYaml } from '../../../../src/manager/cloud-init/yaml.ts';
import { Random } from '../../../fuzz/random.ts';
import { checkFat, consume, fetchTools, filesOf } from '../../../support/cloud-init/cloud-init.ts';

const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@example';
const OTHER_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILGsNzUvYc6yIRoGnDxsMRRs9NDOVZQ1iXvbPqmUvWAE other';
// openssl passwd -6 -salt tsvm tsvm
const HASH = '$6$tsvm$LIZUn7I4kRY5iZA6ZGMKgySReIuxZSE5hyuLW.V2N3Zzcy2C.fZWKxZdanECH5axiUq12QR064giObux9NI.8/';

const seed = (options: Partial<SeedOptions> = {}) => makeSeed({ hostname: 'vm1', ...options });
const userData = (text: string | Uint8Array) => ({ name: 'user.yaml', content: Buffer.from(text) });

beforeAll(fetchTools, 300_000);

describe('the volume', () => {
  it('is in order for fsck.fat', async () => {
    const said = await checkFat(seed({ sshKeys: [KEY], interfaces: [{ mac: '52:54:00:00:00:01' }] }).disk);
    expect(said).toMatch(/5 files, \d+\/8007 clusters/);
    expect(said).toContain('2 FATs, 16 bit entries');
  });

  it('has the label that cloud-init looks for, and the files by their long names', async () => {
    const { disk, files } = seed({ interfaces: [{ mac: '52:54:00:00:00:01' }] });
    expect(Buffer.from(disk.subarray(43, 54)).toString()).toBe('CIDATA     ');
    expect(Object.keys(await filesOf(disk)).sort()).toEqual(Object.keys(files).sort());
  });

  it('gives back files of every length, as they were', async () => {
    const random = new Random(1);
    for (const length of [0, 1, 511, 512, 513, 65_536, USER_DATA_LIMIT - 14]) {
      const tail = Buffer.from(Array.from({ length }, () => random.below(256)));
      const content = Buffer.concat([Buffer.from('#cloud-config\n'), tail]);
      const { disk } = seed({ userData: userData(content) });
      expect((await filesOf(disk))['user-data']?.equals(content)).toBe(true);
    }
  }, 60_000);
});

describe('a seed, as cloud-init takes it', () => {
  it('is of NoCloud, with a name of the host and an identifier of its own', async () => {
    const [one, two] = [seed(), seed()];
    expect(one.instanceId).not.toBe(two.instanceId);
    const consumed = await consume(one.disk);
    expect(consumed).toMatchObject({ instanceId: one.instanceId, hostname: 'vm1', interfaces: null });
    expect(consumed.source).toContain('DataSourceNoCloud');
  });

  it('gives the image its own user, whom only keys let in', async () => {
    const consumed = await consume(seed({ sshKeys: [KEY] }).disk);
    expect(consumed).toMatchObject({
      defaultUser: 'debian',
      keys: [KEY],
      users: { debian: { lock_passwd: true } },
      config: { ssh_pwauth: false, password: null },
    });
  });

  it('gives that user another name, and leaves it what it may', async () => {
    const consumed = await consume(seed({ user: 'alice' }).disk);
    expect(consumed.defaultUser).toBe('alice');
    expect(consumed.users['alice']).toMatchObject({ sudo: ['ALL=(ALL) NOPASSWD:ALL'], lock_passwd: true });
    expect(consumed.users['debian']).toBeUndefined();
  });

  it('takes a password that does not end with the first login', async () => {
    const { config } = await consume(seed({ passwordHash: HASH, sshPassword: true }).disk);
    expect(config).toMatchObject({ password: HASH, chpasswd: { expire: false }, ssh_pwauth: true });
  });

  it('finds interfaces by their addresses', async () => {
    const { interfaces } = await consume(
      seed({
        interfaces: [
          { mac: '52:54:00:AB:00:01' },
          {
            mac: '52:54:00:ab:00:02',
            dhcp4: false,
            addresses: ['10.1.0.2/24'],
            gateways: ['10.1.0.1'],
            nameservers: ['10.1.0.1'],
          },
        ],
      }).disk,
    );
    expect(interfaces).toMatchObject([
      { name: 'eth0', mac_address: '52:54:00:ab:00:01', subnets: [{ type: 'dhcp4' }] },
      {
        name: 'eth1',
        mac_address: '52:54:00:ab:00:02',
        subnets: [
          {
            type: 'static',
            address: '10.1.0.2',
            routes: [{ network: '0.0.0.0', gateway: '10.1.0.1' }],
            dns_nameservers: ['10.1.0.1'],
          },
        ],
      },
    ]);
  });

  it('runs a script for the guest agent unless that is not wanted', async () => {
    const [install, start, none] = await Promise.all(
      (['install', 'start', 'none'] as const).map(
        async (agent) => (await consume(seed({ agent }).disk)).vendorScripts,
      ),
    );
    expect(install?.['tsvm-agent.sh']).toContain('apt-get install');
    expect(start?.['tsvm-agent.sh']).not.toContain('apt-get install');
    expect(start?.['tsvm-agent.sh']).toMatch(/^#!\/bin\/sh\n/);
    expect(none).toEqual({});
  });
});

describe("the user's file", () => {
  it('is laid over ours, whose keys stay', async () => {
    const consumed = await consume(
      seed({
        user: 'alice',
        sshKeys: [KEY],
        userData: userData(
          `#cloud-config\npackages: [git]\nssh_pwauth: true\nssh_authorized_keys: ["${OTHER_KEY}"]\n`,
        ),
      }).disk,
    );
    expect(consumed).toMatchObject({
      defaultUser: 'alice',
      keys: [KEY],
      config: { packages: ['git'], ssh_authorized_keys: [OTHER_KEY], ssh_pwauth: true },
    });
    expect(Object.keys(consumed.vendorScripts)).toEqual(['tsvm-agent.sh']);
  });

  it('may be a script', async () => {
    const { userScripts, defaultUser } = await consume(
      seed({ user: 'alice', userData: userData('#!/bin/sh\necho hello\n') }).disk,
    );
    expect(Object.values(userScripts)).toEqual(['#!/bin/sh\necho hello\n']);
    expect(defaultUser).toBe('alice');
  });

  it('may be a template', async () => {
    const text = '## template: jinja\n#cloud-config\npackages: ["for-{{ v1.local_hostname }}"]\n';
    expect((await consume(seed({ userData: userData(text) }).disk)).config.packages).toEqual(['for-vm1']);
  });

  it('may be many in one, packed', async () => {
    const text = [
      'Content-Type: multipart/mixed; boundary="=="',
      'MIME-Version: 1.0',
      '',
      '--==',
      'Content-Type: text/cloud-config',
      '',
      '#cloud-config',
      'packages: [tree]',
      '--==',
      'Content-Type: text/x-shellscript',
      '',
      '#!/bin/sh',
      'true',
      '--==--',
      '',
    ].join('\n');
    const consumed = await consume(seed({ userData: userData(gzipSync(text)) }).disk);
    expect(consumed.config.packages).toEqual(['tree']);
    expect(Object.keys(consumed.userScripts)).toHaveLength(1);
  });

  it('is refused where cloud-init would take no notice of it', () => {
    for (const text of ['', 'packages: [git]\n', '\n#cloud-config\n', '{"packages": []}', ' #!/bin/sh']) {
      expect(() => seed({ userData: userData(text) })).toThrow(/does not begin like anything/);
    }
  });

  it('is refused where it is larger than it may be', () => {
    const large = Buffer.alloc(USER_DATA_LIMIT + 1, '#!');
    expect(() => seed({ userData: userData(large) })).toThrow(/may have 1048576/);
  });

  it('stays user data, whatever is in it', async () => {
    const text = '#cloud-config\n# \0 --== ../../etc\ninstance-id: evil\n---\nlocal-hostname: evil\n';
    const files = await filesOf(seed({ userData: userData(text) }).disk);
    expect(files['user-data']?.toString()).toBe(text);
    expect(files['meta-data']?.toString()).not.toContain('evil');
  });
});

describe('options that cannot be', () => {
  it.each<[string, Partial<SeedOptions>]>([
    ['a host with a dot', { hostname: 'a.b' }],
    ['a host that ends a line', { hostname: 'a\nb' }],
    ['a host that is too long', { hostname: 'a'.repeat(64) }],
    ['no host', { hostname: '' }],
    ['an instance of another folder', { instanceId: '../x' }],
    ['root', { user: 'root' }],
    ['a user in capital letters', { user: 'Alice' }],
    ['a user with a colon', { user: 'a:b' }],
    ['half a key', { sshKeys: ['ssh-ed25519'] }],
    ['two keys in one', { sshKeys: [`${KEY}\n${KEY}`] }],
    ['a key with options', { sshKeys: [`command="x" ${KEY}`] }],
    ['a password in clear text', { passwordHash: 'secret' }],
    ['a password with a line of its own', { passwordHash: `${HASH}\nroot` }],
    ['an address that is none', { interfaces: [{ mac: '52:54:00' }] }],
    ['the same address twice', { interfaces: [{ mac: '52:54:00:00:00:01' }, { mac: '52:54:00:00:00:01' }] }],
    ['a gateway by name', { interfaces: [{ mac: '52:54:00:00:00:01', gateways: ['router'] }] }],
  ])('are refused: %s', (_, options) => {
    expect(() => seed(options)).toThrow(expect.objectContaining({ code: 'ECLOUDINIT' }));
  });
});

describe('YAML', () => {
  it('is printable ASCII, whatever the text', () => {
    const random = new Random(7);
    for (let round = 0; round < 200; round++) {
      const text = String.fromCodePoint(
        ...Array.from({ length: 40 }, () =>
          random.pick([random.below(0x80), random.below(0xd800), random.between(0x10000, 0x10ffff)]),
        ),
      );
      const yaml = toYaml({ text });
      expect(yaml).toMatch(/^[\n -~]*$/);
      // JSON's escapes and the one of YAML that is not among them
      const json = yaml.replaceAll(/\\U([0-9a-f]{8})/g, (_, hex: string) =>
        String.fromCodePoint(parseInt(hex, 16)),
      );
      expect(JSON.parse(json)).toEqual({ text });
    }
  });
});
