import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fetchClosure, fetchPackage } from '../../images/debian/packages.ts';
import type { GuestHost } from '../lab/host.ts';
import { DebianGuest } from '../guest/debian-guest.ts';
import { openHost } from '../guest/support.ts';

// A Debian as it is; gcc, make and git are the host's, by a share of its /usr.

const BOOT_LIMIT_MS = 900_000;
const STEP_LIMIT_MS = 1_800_000;

const MAKEFILE = `
NEWLIB := newlib-salsa/newlib
SOURCES := $(wildcard $(NEWLIB)/libm/math/*.c $(NEWLIB)/libm/common/*.c)
libm.a: $(SOURCES:.c=.o)
\\trm -f $@ && ar rcs $@ $^
%.o: %.c
\\tgcc -O0 -w -fno-builtin -nostdinc -isystem $(INCLUDE) -I$(NEWLIB)/libc/include -I$(NEWLIB)/libm/common -c -o $@ $<
`;

/** stress-ng's file system tests that need neither a device, nor leases or verity, which FUSE does not have. */
const STRESSORS =
  'access chdir chmod chown copy-file dentry dir dirdeep dirmany fallocate fcntl filename flock fpunch fstat getdent ' +
  'hdd io link locka lockf lockofd mknod mmap msync open readahead rename seek symlink sync-file touch utime xattr';

let host: GuestHost;
let guest: DebianGuest;
let work: string;
let tools: string;

/** Runs a line with the programs of the host's /usr, in the share. */
const withTools = (line: string): Promise<string> =>
  guest.say(`chroot /c /usr/bin/env HOME=/root LC_ALL=C sh -c '${line}'`, STEP_LIMIT_MS);

beforeAll(async () => {
  host = await openHost();
  const newlib = await fetchPackage('newlib-source');
  tools = (await fetchClosure('stress-ng')).root;
  const disk = await host.debianDisk('share.raw');
  work = join(host.scratch, 'share-work');
  await host.exec(['mkdir', '-p', work]);
  await host.exec(`tar -C ${work} -xf ${newlib.root}/usr/src/newlib/newlib-*.tar.xz`, {
    timeoutMs: STEP_LIMIT_MS,
  });
  guest = await DebianGuest.boot(host, {
    limitMs: 7_200_000,
    disk,
    name: 'share',
    args: [`${work}:/mnt/work`, '/usr:/host/usr:ro', `${tools}:/host/tools:ro`].flatMap((share) => [
      '--share',
      share,
    ]),
  });
  await guest.agentReady();
  // Until then the agent's port is taken, once in a while, by what mounts them.
  await mounted();
}, BOOT_LIMIT_MS);

afterAll(async () => {
  await guest.kill();
  await host.exec(`rm -rf ${host.scratch}/share*`);
  await host.close();
});

/** A tree with the programs of the host's /usr, where the share is /mnt. */
async function makeTools(): Promise<void> {
  await mounted();
  await guest.say(
    'mkdir -p /c/usr /c/mnt /c/proc /c/dev /c/tmp /c/root /c/etc; cd /c; ' +
      'for i in bin sbin lib lib64; do ln -s usr/$i $i; done; ' +
      'mount --bind /host/usr usr; mount --bind /mnt/work mnt; mount -t proc proc proc; mount --bind /dev dev; ' +
      'cp /etc/passwd /etc/group etc',
  );
}

/** Waits for the mounts, which come soon after the agent. */
async function mounted(): Promise<string> {
  for (let i = 0; i < 100; i++) {
    const { stdout } = await guest.run('findmnt -n -t virtiofs -o SOURCE,TARGET,OPTIONS');
    if (stdout.trim().split('\n').length === 3) return stdout;
    await sleep(500);
  }
  throw new Error(`nothing is mounted: ${guest.output.slice(-2000)}`);
}

describe('shared folders of a Debian', () => {
  it('are mounted at boot, each at its place', async () => {
    const mounts = await mounted();
    expect(mounts).toMatch(/^mnt-work +\/mnt\/work +rw,/m);
    expect(mounts).toMatch(/^host-usr +\/host\/usr +ro,/m);
  });

  it('are mounted again where the agent comes up again', async () => {
    // Not at once: the agent has to answer for this command yet.
    await guest.say(
      'umount /mnt/work && systemd-run --quiet --on-active=2 systemctl restart qemu-guest-agent',
    );
    await sleep(5000);
    await guest.agentReady();
    expect(await mounted()).toMatch(/mnt-work/);
  });

  it('are the host’s, in both directions', async () => {
    await guest.say('echo from the guest > /mnt/work/guest.txt');
    expect((await host.exec(['cat', join(work, 'guest.txt')])).stdout).toBe('from the guest\n');
    await host.exec(`echo from the host > ${work}/host.txt`);
    expect(await guest.say('cat /mnt/work/host.txt')).toBe('from the host\n');
    await host.exec(`echo once more > ${work}/host.txt`);
    expect(await guest.say('cat /mnt/work/host.txt')).toBe('once more\n');
  });

  it('are not changed where they are read-only, whatever the guest mounts', async () => {
    expect((await guest.run('touch /host/usr/made')).stderr).toContain('Read-only file system');
    await guest.say('mkdir -p /mnt/again && mount -t virtiofs host-usr /mnt/again');
    expect((await guest.run('mount -o remount,rw /mnt/again; touch /mnt/again/made')).stderr).toContain(
      'Read-only file system',
    );
    await guest.say('umount /mnt/again');
    expect((await host.exec(['ls', '/usr/made'])).code).not.toBe(0);
  });

  describe('worked on with the programs of the host', () => {
    beforeAll(makeTools, STEP_LIMIT_MS);

    it(
      'have a C library built in them',
      async () => {
        await guest.say(`printf %b '${MAKEFILE.replaceAll('\n', '\\n')}' > /mnt/work/Makefile`);
        const include = (await withTools('dirname $(gcc -print-file-name=include/stddef.h)')).trim();
        await withTools(`cd /mnt && make -s INCLUDE=${include} libm.a`);
        const objects = (await withTools('cd /mnt && ar t libm.a | wc -l')).trim();
        expect(Number(objects)).toBeGreaterThan(250);
        // Nothing is left to do: times are what make goes by.
        expect(await withTools(`cd /mnt && make INCLUDE=${include} libm.a`)).toContain('is up to date');
        const { stdout } = await host.exec(`ar t ${work}/libm.a | wc -l; nm ${work}/libm.a | grep -c " T "`);
        expect(stdout.split('\n')[0]).toBe(objects);
      },
      STEP_LIMIT_MS,
    );

    it(
      'hold a git repository, its clone, and agree with both',
      async () => {
        await withTools(
          'cd /mnt && mkdir repo && cp -r newlib-salsa/newlib/libm/math repo/math && rm -f repo/math/*.o && cd repo && git init -q . && ' +
            'git add . && git -c user.name=n -c user.email=e commit -q -m first && cd .. && git clone -q repo clone',
        );
        expect(await withTools('cd /mnt/clone && git status --porcelain')).toBe('');
        expect(await withTools('cd /mnt/repo && git status --porcelain')).toBe('');
        await withTools('cd /mnt/clone && git fsck --strict 2>&1');
        const { stdout } = await host.exec(
          `cd ${work}/clone && git -c safe.directory=* status --porcelain && git -c safe.directory=* ls-files | wc -l; ` +
            `ls ${work}/repo/math | wc -l`,
        );
        const [cloned, first] = stdout.trim().split('\n').map(Number);
        expect(first).toBeGreaterThan(100);
        expect(cloned).toBe(first);
      },
      STEP_LIMIT_MS,
    );
  });

  it(
    'pass the file system tests of stress-ng, which verify what they do',
    async () => {
      const libraries = ['lib', 'usr/lib'].map((dir) => `/host/tools/${dir}/x86_64-linux-gnu`).join(':');
      const stress = `/host/tools/lib64/ld-linux-x86-64.so.2 --library-path ${libraries} /host/tools/usr/bin/stress-ng`;
      const said = await guest.say(
        'mkdir -p /mnt/work/stress; ' +
          `for each in ${STRESSORS}; do ` +
          `${stress} --verify --temp-path /mnt/work/stress --$each 1 --timeout 2 -q > /tmp/stress 2>&1; ` +
          'code=$?; [ $code = 0 ] || { echo "$each: status $code"; head -c 400 /tmp/stress; }; done',
        STEP_LIMIT_MS,
      );
      expect(said).toBe('');
      expect(await guest.say('ls -A /mnt/work/stress')).toBe('');
    },
    STEP_LIMIT_MS,
  );

  it('leave nothing wrong behind', async () => {
    await guest.expectHealthy();
    expect(await guest.say('dmesg | grep -ciE "fuse.*(error|warn)|virtiofs.*(error|fail)" || true')).toBe(
      '0\n',
    );
  });
});
