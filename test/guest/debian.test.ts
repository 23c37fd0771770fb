import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GuestHost } from '../lab/host.ts';
import { DebianGuest } from './debian-guest.ts';
import { hostLinkArguments, hostLinkChecks } from './host-links.ts';
import { openHost } from './support.ts';

const BOOT_LIMIT_MS = 600_000;
const STEP_LIMIT_MS = 300_000;

let host: GuestHost;
let root: string;
let data: string;
/** its paths are known once there is a host */
const links = { forward: 18_005, socket: '', folder: '' };

beforeAll(async () => {
  host = await openHost();
  root = await host.debianDisk('debian-test.raw');
  data = join(host.scratch, 'debian-data.raw');
  await host.exec(['truncate', '-s', '512M', data]);
  links.socket = join(host.scratch, 'debian-vsock');
  links.folder = join(host.scratch, 'debian-share');
  await host.exec(['mkdir', links.folder]);
}, BOOT_LIMIT_MS);

afterAll(async () => {
  await host.exec(`rm -rf ${host.scratch}/debian-*`);
  await host.close();
});

/** Blocks of 512 bytes that a file of the host takes. */
async function blocksOf(path: string): Promise<number> {
  return Number((await host.exec(['stat', '-c', '%b', path])).stdout);
}

describe('Debian from its disk over virtio-pci', () => {
  let guest: DebianGuest;
  /** checksums by file, of what the guest has said to be synced */
  const synced = new Map<string, string>();

  beforeAll(async () => {
    guest = await DebianGuest.boot(host, {
      disk: root,
      name: 'debian-pci',
      args: [
        ...['--cpus', '2', '--disk', `${data},serial=DATA-1`, '--rng', '--balloon'],
        ...hostLinkArguments(links),
      ],
    });
  }, BOOT_LIMIT_MS);

  it(
    'comes to a login on the serial console',
    async () => {
      const said = await guest.loginAndRun('tty; nproc; findmnt -no SOURCE /');
      expect(said.trim().split('\n')).toEqual(['/dev/ttyS0', '2', '/dev/vda1']);
    },
    BOOT_LIMIT_MS,
  );

  it(
    'has no failed unit and no warning of a device',
    async () => {
      await guest.agentReady();
      await guest.expectHealthy();
    },
    STEP_LIMIT_MS,
  );

  it(
    'finds its devices on PCI, with MSI-X',
    async () => {
      const drivers = await guest.say('ls -d /sys/bus/virtio/drivers/*/virtio*; cat /proc/interrupts');
      for (const driver of ['virtio_blk', 'virtio_console', 'virtio_rng', 'virtio_balloon']) {
        expect(drivers).toContain(`/${driver}/virtio`);
      }
      expect(drivers).toMatch(/PCI-MSI.*virtio0-req/);
      expect(await guest.say('readlink -f /dev/disk/by-id/virtio-DATA-1')).toBe('/dev/vdb\n');
    },
    STEP_LIMIT_MS,
  );

  it(
    'passes on what a command in the guest says, and how it ends',
    async () => {
      const result = await guest.run('echo out; echo error >&2; exit 7');
      expect(result).toMatchObject({ code: 7, stdout: 'out\n', stderr: 'error\n' });
    },
    STEP_LIMIT_MS,
  );

  hostLinkChecks(() => ({ host, guest }), links);

  it(
    'reads back what fio has written at random on a second disk',
    async () => {
      const job =
        'fio --name=verify --filename=/dev/vdb --size=16M --rw=randwrite --bs=4k --iodepth=16 --direct=1 ' +
        '--ioengine=libaio --verify=crc32c --verify_fatal=1 --output-format=terse --terse-version=3';
      const fields = (await guest.say(job)).split(';');
      // terse version 3: the third field is the name, the fifth the error, then kilobytes read and, 41 later, written
      expect(fields[2]).toBe('verify');
      expect(fields[4]).toBe('0');
      expect(Number(fields[46])).toBe(16 * 1024);
    },
    STEP_LIMIT_MS,
  );

  it(
    'gives space back to the host with fstrim',
    async () => {
      await guest.say('mkfs.ext4 -q -E nodiscard /dev/vdb && mkdir -p /data && mount /dev/vdb /data');
      await guest.say('head -c 100M /dev/urandom > /data/large && sync /data/large');
      const full = await blocksOf(data);
      await guest.say('rm /data/large && sync && fstrim /data');
      expect(full - (await blocksOf(data))).toBeGreaterThan((90 * 1024 * 1024) / 512);
    },
    STEP_LIMIT_MS,
  );

  it(
    'is killed in the middle of writes',
    async () => {
      const load =
        'i=0; while :; do i=$((i+1)); head -c 40000 /dev/urandom > /data/f$i; sync /data/f$i /data; ' +
        'echo "synced f$i $(sha256sum < /data/f$i)" > /dev/ttyS0; done';
      await guest.say(`setsid sh -c '${load}' > /dev/null 2>&1 & echo started`);
      await guest.waitFor(/synced f25 [0-9a-f]{64}/);
      await guest.kill();
      for (const [, file, sum] of guest.output.matchAll(/synced (f\d+) ([0-9a-f]{64})/g))
        synced.set(file!, sum!);
      expect(synced.size).toBeGreaterThanOrEqual(25);
    },
    STEP_LIMIT_MS,
  );

  describe('and then over virtio-mmio', () => {
    let next: DebianGuest;

    beforeAll(async () => {
      next = await DebianGuest.boot(host, {
        disk: root,
        name: 'debian-mmio',
        console: 'hvc0',
        args: ['--transport', 'mmio', '--disk', data, '--rng', '--balloon'],
      });
    }, BOOT_LIMIT_MS);

    it(
      'comes to a login on hvc0',
      async () => {
        const said = await next.loginAndRun('tty; findmnt -no SOURCE /');
        expect(said.trim().split('\n')).toEqual(['/dev/hvc0', '/dev/vda1']);
      },
      BOOT_LIMIT_MS,
    );

    it(
      'has no failed unit and no warning of a device',
      async () => {
        await next.agentReady();
        await next.expectHealthy();
        expect(await next.say('cat /proc/interrupts')).toMatch(/IO-APIC.*virtio0/);
      },
      STEP_LIMIT_MS,
    );

    it(
      'has all that was synced before the kill, in a sound file system',
      async () => {
        // The mount replays the journal.
        await next.say('mkdir -p /data && mount /dev/vdb /data');
        const sums = await next.say('cd /data && for f in f*; do echo "$f $(sha256sum < $f)"; done');
        const found = new Map(sums.split('\n').map((line) => line.split(' ') as [string, string]));
        for (const [file, sum] of synced) expect([file, found.get(file)]).toEqual([file, sum]);
        await next.say('umount /data && fsck.ext4 -f -n /dev/vdb');
      },
      STEP_LIMIT_MS,
    );

    it(
      'powers off',
      async () => {
        expect((await next.powerOff()).code).toBe(0);
      },
      STEP_LIMIT_MS,
    );
  });
});
