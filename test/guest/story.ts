/**
 * What a user does in the first hour, by the built command line: images from servers laid out as the distributors' are,
 * and a VM of one of them, or of each at once on one network.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packageRoot } from '../../images/debian/cache.ts';
import { kernelOf } from '../../images/debian/kernel.ts';
import { attach, LEAVE, openHost } from './support.ts';
import { HostTsvm } from './tsvm.ts';
import type { GuestHost } from '../lab/host.ts';
import { cloudImages, MARK } from '../support/images/cloud-images.ts';
import { mirrorConfig } from '../support/images/distributors.ts';
import { unpackAhead } from '../support/unpack-ahead.ts';

const LIMIT_MS = 900_000;
/** images, which are the names of their VMs too, and what said what they boot */
const IMAGES = [
  ['ubuntu', undefined],
  ['debian', /GRUB, \/boot\/grub\/grub\.cfg/],
  ['almalinux', /loader\/entries/],
] as const;
const FIRST = 'ubuntu';

let host: GuestHost;
let home: string;
let tsvm: HostTsvm;
let served: Promise<unknown>;

/** Starts the server of all distributors; @returns its address */
async function serve(folder: string): Promise<string> {
  const program = join(packageRoot(), 'test/guest/programs/serve-files.mjs');
  return new Promise<string>((resolve, reject) => {
    let said = '';
    served = host
      .exec(`node '${program}' '${folder}' & echo $! > '${home}/server.pid'; wait`, {
        timeoutMs: Infinity,
        onOutput: (data) => {
          said += data.toString();
          const address = /^serving (\S+)$/m.exec(said)?.[1];
          if (address !== undefined) resolve(address);
        },
      })
      .then(() => reject(new Error(`the server has ended: ${said}`)));
    served.catch(() => undefined);
  });
}

/** @param count of images: so many VMs run at once; of one alone the story is a short one */
export function tellStory(count: 1 | 3): void {
  const images = IMAGES.slice(0, count);
  const names = images.map(([name]) => name);
  beforeAll(async () => {
    host = await openHost();
    home = join(host.scratch, 'story');
    tsvm = new HostTsvm(host, home, LIMIT_MS);
    await unpackAhead((await kernelOf('linux-image-cloud-amd64')).vmlinuz);
    const folder = await cloudImages();
    await host.exec(['mkdir', '-p', home]);
    const config = mirrorConfig(await serve(folder));
    await host.exec(['sh', '-c', `cat > '${home}/config.ini'`], { stdin: config });
  }, LIMIT_MS);

  afterAll(async () => {
    await tsvm.run('delete', '--force', ...names);
    await host.exec(`kill $(cat '${home}/server.pid')`);
    await host.exec(`rm -rf '${home}'`);
    await host.close();
  }, LIMIT_MS);

  describe(`the story, with so many VMs: ${count}`, () => {
    it(
      'begins with an image that is downloaded, and a VM that is made of it',
      async () => {
        await tsvm.ok('create', FIRST, '--mem', '1G', '--net', 'vmnet=lan');
        expect(await tsvm.states()).toEqual({ [FIRST]: 'stopped' });
        const images = JSON.parse(await tsvm.ok('image', 'ls', '--json')) as {
          name: string;
          usedBy: string[];
        }[];
        expect(images).toMatchObject([{ name: 'ubuntu:24.04', usedBy: [FIRST] }]);
        expect(await tsvm.ok('info', FIRST)).toContain('ubuntu');
      },
      LIMIT_MS,
    );

    it(
      'goes on with its start, and a command in it',
      async () => {
        await tsvm.ok('start', FIRST);
        expect(await tsvm.states()).toEqual({ [FIRST]: 'running' });
        expect(await tsvm.ok('list')).toMatch(/^ubuntu +running/m);
        await tsvm.ok('wait', '--for', 'agent', '--timeout', '450', FIRST);
        expect(await tsvm.ok('exec', FIRST, '--', 'uname', '-a')).toMatch(/^Linux .* x86_64 GNU\/Linux\n$/);
        expect(await tsvm.inGuest(FIRST, `cat ${MARK}; grep -o 'root=[^ ]*' /proc/cmdline`)).toBe(
          'ubuntu\nroot=LABEL=cloudimg-rootfs\n',
        );
        // What cloud-init is told.
        expect(
          await tsvm.inGuest(
            FIRST,
            'mkdir /seed && mount -t vfat -o ro /dev/vdb /seed && cat /seed/meta-data',
          ),
        ).toMatch(/"local-hostname": "ubuntu"/);
      },
      LIMIT_MS,
    );

    it(
      'has files copied in and out',
      async () => {
        const sums = await tsvm.shell(
          `head -c 3M /dev/urandom > bytes; md5sum < bytes
         t cp -q bytes ${FIRST}:/mnt/; t exec ${FIRST} -- sync
         t exec ${FIRST} -- md5sum /mnt/bytes | cut -d' ' -f1
         t cp -q ${FIRST}:/mnt/bytes back; md5sum < back`,
        );
        expect(
          new Set(
            sums
              .trim()
              .split('\n')
              .map((line) => line.slice(0, 32)),
          ).size,
        ).toBe(1);
      },
      LIMIT_MS,
    );

    it(
      'has its console attached, typed at and left, while another looks on',
      async () => {
        await tsvm.ok('wait', '--for', '/\/ # /', '--timeout', '60', FIRST);
        const other = attach(host, home, FIRST, [{ after: 'is-42', send: LEAVE }]);
        const own = await attach(host, home, FIRST, [
          // It was said before.
          { after: '# ', send: 'echo is-$((40+2))\r' },
          { after: 'is-42', send: LEAVE },
        ]);
        expect(own).toContain('Ctrl-] leaves it');
        expect(await other).toContain('Linux version');
        expect(await tsvm.states()).toEqual({ [FIRST]: 'running' });
        expect(await tsvm.ok('logs', FIRST)).toContain('is-42');
      },
      LIMIT_MS,
    );

    if (count > 1)
      it(
        'has it give memory back, and get it again',
        async () => {
          const free = async (): Promise<number> => {
            const [, kib = '0'] =
              /^MemFree: +(\d+)/m.exec(await tsvm.inGuest(FIRST, 'cat /proc/meminfo')) ?? [];
            return Number(kib) * 1024;
          };
          const before = await free();
          expect(await tsvm.run('set', '--mem', '768M', FIRST)).toMatchObject({ code: 0, stderr: '' });
          await expect.poll(free, { timeout: 60_000 }).toBeLessThan(before - 200 * 2 ** 20);
          expect(await tsvm.run('set', '--mem', '1G', FIRST)).toMatchObject({ code: 0, stderr: '' });
          await expect.poll(free, { timeout: 60_000 }).toBeGreaterThan(before - 100 * 2 ** 20);
        },
        LIMIT_MS,
      );

    it(
      'is suspended, and goes on where it was',
      async () => {
        const before = await tsvm.inGuest(
          FIRST,
          'sleep 100000 > /dev/null 2>&1 & echo $! > /run/sleeper; md5sum < /mnt/bytes',
        );
        await tsvm.ok('suspend', FIRST);
        expect(await tsvm.states()).toEqual({ [FIRST]: 'suspended' });
        await tsvm.ok('start', FIRST);
        expect(
          await tsvm.inGuest(
            FIRST,
            'echo 3 > /proc/sys/vm/drop_caches; kill -0 $(cat /run/sleeper) && md5sum < /mnt/bytes',
          ),
        ).toBe(before);
      },
      LIMIT_MS,
    );

    it(
      'has the file still there after a stop and a start',
      async () => {
        const before = await tsvm.inGuest(FIRST, 'md5sum < /mnt/bytes');
        // Nobody listens for the power button in this guest: its agent is asked.
        await tsvm.ok('stop', '--timeout', '300', FIRST);
        expect(await tsvm.ok('logs', '--process', FIRST)).toMatch(/ended: poweroff/);
        expect(await tsvm.states()).toEqual({ [FIRST]: 'stopped' });
        await tsvm.ok('start', FIRST);
        await tsvm.ok('wait', '--for', 'agent', '--timeout', '450', FIRST);
        expect(await tsvm.inGuest(FIRST, 'md5sum < /mnt/bytes')).toBe(before);
      },
      LIMIT_MS,
    );

    if (count > 1)
      it(
        'has VMs of other images beside it, each of which boots what its image says',
        async () => {
          for (const [name, loader] of images.slice(1)) {
            await tsvm.ok('create', name, '--mem', '256M', '--net', 'vmnet=lan', '--start');
            await tsvm.ok('wait', '--for', 'agent', '--timeout', '600', name);
            expect(await tsvm.inGuest(name, `cat ${MARK}`)).toBe(`${name}\n`);
            expect(await tsvm.ok('logs', '--process', name)).toMatch(loader!);
          }
          expect(await tsvm.states()).toEqual(Object.fromEntries(names.map((name) => [name, 'running'])));
        },
        2 * LIMIT_MS,
      );

    if (count > 1)
      it(
        'has them reach each other by name',
        async () => {
          for (const from of names) {
            for (const to of names.filter((name) => name !== from)) {
              const ping = `for i in $(seq 60); do ping -c 1 -W 5 ${to} && exit; sleep 1; done; exit 1`;
              expect(await tsvm.inGuest(from, ping), `${from} to ${to}`).toContain(' 0% packet loss');
            }
          }
        },
        LIMIT_MS,
      );

    it(
      'makes another VM of an image that is here without its server',
      async () => {
        await host.exec(`kill $(cat '${home}/server.pid')`);
        await tsvm.ok('create', FIRST, 'another');
        expect((await tsvm.run('create', 'fedora')).code).not.toBe(0);
        await tsvm.ok('delete', 'another');
      },
      LIMIT_MS,
    );

    it(
      'ends with nothing left but images, which can go then',
      async () => {
        await tsvm.ok('delete', '--force', ...names);
        expect(await tsvm.ok('list', '-q')).toBe('');
        expect(await tsvm.shell('ls -A vms')).toBe('');
        expect((await host.exec(['pgrep', '-fa', `vm-process.*${home}`])).stdout).toBe('');
        await tsvm.ok('image', 'rm', ...names);
        expect(JSON.parse(await tsvm.ok('image', 'ls', '--json'))).toEqual([]);
      },
      LIMIT_MS,
    );
  });
}
