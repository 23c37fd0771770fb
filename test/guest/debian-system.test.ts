import { execa } from 'execa';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parsePackageList } from '../../images/debian/archive.ts';
import { cacheRoot, debianCache, packageRoot } from '../../images/debian/cache.ts';
import { buildDebian, type DebianSystem } from '../../images/debian/system.ts';

const BUILD_LIMIT_MS = 1_800_000;
const ENV = { PATH: `${process.env['PATH']}:/usr/sbin:/sbin`, LC_ALL: 'C' };

let system: DebianSystem;
beforeAll(async () => {
  system = await buildDebian();
}, BUILD_LIMIT_MS);

/** A command of debugfs(8) on the root file system. */
async function debugfs(command: string): Promise<string> {
  const target = `${system.disk}?offset=${system.rootOffset}`;
  return (await execa('debugfs', ['-R', command, target], { env: ENV })).stdout;
}

describe("Debian's system image", () => {
  it('has a sound root file system of the identity that its fstab and command line name', async () => {
    const target = `${system.disk}?offset=${system.rootOffset}`;
    const { exitCode } = await execa('e2fsck', ['-f', '-n', target], { env: ENV, reject: false });
    expect(exitCode).toBe(0);
    const header = (await execa('dumpe2fs', ['-h', target], { env: ENV })).stdout;
    const uuid = /^Filesystem UUID: +(\S+)$/m.exec(header)?.[1];
    expect(await debugfs('cat /etc/fstab')).toContain(`UUID=${uuid} / ext4`);
    const table = JSON.parse((await execa('sfdisk', ['--json', system.disk], { env: ENV })).stdout) as {
      partitiontable: { partitions: { uuid: string }[] };
    };
    const partitions = table.partitiontable.partitions.map((partition) => partition.uuid.toLowerCase());
    expect([`root=PARTUUID=${partitions[0]} ro quiet`]).toEqual([system.cmdline]);
  });

  it('is sparse: most of the disk takes no space on the host', () => {
    const { size, blocks } = statSync(system.disk);
    expect(size).toBe(system.diskSize);
    expect(blocks * 512).toBeLessThan(1024 ** 3);
  });

  it('leaves to the first boot what is to differ between machines', async () => {
    expect(await debugfs('cat /etc/machine-id')).toBe('');
    const ssh = await debugfs('ls -p /etc/ssh');
    expect(ssh).toContain('sshd_config');
    expect(ssh).not.toContain('ssh_host_');
  });

  it('carries Debian’s mirrors and nothing of the build', async () => {
    const sources = await debugfs('cat /etc/apt/sources.list');
    expect(sources.match(/https?:\/\/[^/]+/g)).toEqual(Array(3).fill('http://deb.debian.org'));
    const left = `${await debugfs('ls -p /etc/apt/apt.conf.d')}${await debugfs('ls -p /etc/dpkg/dpkg.cfg.d')}`;
    expect(left).not.toContain('mmdebstrap');
  });

  it('has an initramfs with both virtio transports, their disks and consoles, and a check of the root', async () => {
    const { stdout } = await execa('sh', ['-c', 'zstd -dc "$0" | cpio --list --quiet', system.initrd]);
    const names = stdout.split('\n').map((path) => path.slice(path.lastIndexOf('/') + 1));
    expect(names).toEqual(
      expect.arrayContaining([
        ...['virtio_pci.ko', 'virtio_mmio.ko', 'virtio_blk.ko', 'virtio_console.ko'],
        'fsck.ext4',
      ]),
    );
    expect(stdout).toContain(`lib/modules/${system.kernelVersion}/`);
  });

  it('records the versions of all that is installed', async () => {
    const recorded = parsePackageList(readFileSync(system.packages, 'utf8'), system.packages);
    const status = (await debugfs('cat /var/lib/dpkg/status')).trim();
    const field = (entry: string, name: string) => new RegExp(`^${name}: (.*)`, 'm').exec(entry)?.[1];
    const installed = status.split('\n\n').map((entry) => [field(entry, 'Package'), field(entry, 'Version')]);
    expect(recorded.map(({ name, version }) => [name, version])).toEqual(
      installed.sort(([a], [b]) => (a! < b! ? -1 : 1)),
    );
    expect(recorded.map(({ name }) => name)).toContain(`linux-image-${system.kernelVersion}`);
  });

  it('comes from the cache the second time', async () => {
    const said: string[] = [];
    expect(await buildDebian({ progress: (line) => said.push(line) })).toEqual(system);
    expect(said).toEqual([]);
  });
});

describe('a build that is killed', () => {
  const caches: string[] = [];
  afterAll(() => {
    for (const cache of caches) rmSync(cache, { recursive: true, force: true });
  });

  it('leaves no image and no process behind, and the next one removes its traces', async () => {
    const cache = mkdtempSync(join(cacheRoot(), 'killed-build-'));
    caches.push(cache);
    // The packages are there, so that it works and waits for no network.
    mkdirSync(join(cache, 'debian/debs'), { recursive: true });
    for (const deb of readdirSync(join(debianCache(), 'debs')).filter((name) => name.endsWith('.deb'))) {
      linkSync(join(debianCache(), 'debs', deb), join(cache, 'debian/debs', deb));
    }
    const images = join(cache, 'debian/images');
    const workspaces = process.getuid?.() === 0 ? images : (process.env['TMPDIR'] ?? '/var/tmp');
    const others = new Set(existsSync(workspaces) ? readdirSync(workspaces) : []);
    const traces = () =>
      readdirSync(workspaces).filter((name) => name.startsWith('tsvm-image-') && !others.has(name));

    await killAmidInstallation(cache);
    const [first, ...more] = traces();
    expect(first).toBeDefined();
    expect(more).toEqual([]);
    expect(readdirSync(images).filter((name) => !name.includes('.tmp-'))).toEqual(['lock']);
    // A process that still ran would go on to write.
    const before = await sizeBelow(join(workspaces, first!));
    await sleep(2000);
    expect(await sizeBelow(join(workspaces, first!))).toBe(before);

    await killAmidInstallation(cache);
    expect(traces()).toHaveLength(1);
    expect(traces()).not.toContain(first);
    if (workspaces !== images) await removeAsNamespaceRoot(join(workspaces, traces()[0]!));
  }, 300_000);
});

/** Returns when everything has had time to end. */
async function killAmidInstallation(cache: string): Promise<void> {
  const build = spawn('node', ['--import', 'tsx', 'images/debian/build.ts', '--versions', system.packages], {
    cwd: packageRoot(),
    env: { ...process.env, TSVM_CACHE: cache },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const ended = once(build, 'exit');
  let said = '';
  build.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  while (!said.includes('installing')) {
    if (build.exitCode !== null) throw new Error(`the build ended: ${said}`);
    await sleep(100);
  }
  await sleep(3000);
  build.kill('SIGKILL');
  await ended;
  await sleep(2000);
}

async function removeAsNamespaceRoot(dir: string): Promise<void> {
  await execa('mmdebstrap', ['--unshare-helper', 'find', dir, '-mindepth', '1', '-delete']);
  rmSync(dir, { recursive: true });
}

async function sizeBelow(dir: string): Promise<string> {
  return (await execa('du', ['--summarize', '--bytes', dir], { reject: false })).stdout;
}
