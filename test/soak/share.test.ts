import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Kernel } from '../../images/debian/kernel.ts';
import { packageRoot } from '../../images/debian/cache.ts';
import type { GuestHost } from '../lab/host.ts';
import { cloudKernel, openHost, runGuest } from '../guest/support.ts';

// Linux's own driver. Programs come from the host's /usr, shared as well: the guest has a shell and no more.

const LIMIT_MS = 900_000;

const ROOT = `
load-modules
mkdir -p /c/usr /c/proc /c/dev /c/mnt /c/tmp /c/tests
mount -t virtiofs -o ro usr /c/usr
mount -t virtiofs -o ro tests /c/tests
mount -t virtiofs share /c/mnt
for link in bin sbin lib lib64; do ln -s usr/$link /c/$link; done
mount -t proc proc /c/proc
mount -t devtmpfs dev /c/dev
`;

let host: GuestHost;
beforeAll(async () => {
  host = await openHost();
}, LIMIT_MS);
afterAll(async () => {
  await host.close();
});

async function folder(name: string): Promise<string> {
  const path = join(host.scratch, name);
  await host.exec(['mkdir', '-p', path]);
  return path;
}

/** What a script in a guest with shares says; it ends the guest itself. */
async function guest(kernel: Kernel, share: string, script: string): Promise<string> {
  const { stdout, stderr, code } = await runGuest(host, {
    kernel,
    modules: ['virtio_pci', 'virtiofs'],
    script: `${ROOT}${script}\nsync; poweroff -f`,
    cmdline: 'panic=-1',
    args: [
      ...['--mem', '1G', '--no-reboot', '--share', `${share}:/share`, '--share', '/usr:/usr:ro'],
      ...['--share', `${join(packageRoot(), 'test/guest/programs')}:/tests:ro`],
    ],
    timeoutMs: LIMIT_MS,
  });
  if (code !== 0) throw new Error(`${stdout.slice(-3000)}\n${stderr}`);
  return stdout.replaceAll('\r', '');
}

const lines = (text: string, start: RegExp): string[] => text.split('\n').filter((line) => start.test(line));

describe('what POSIX asks of a file system', () => {
  test(
    "holds on a share with Debian's cloud kernel, as it does on the folder itself",
    async () => {
      const path = await folder('posix');
      const local = await host.exec(
        ['/usr/bin/python3', join(packageRoot(), 'test/guest/programs/posix.py'), path],
        { timeoutMs: LIMIT_MS },
      );
      expect(lines(local.stdout, /^failed/)).toEqual([]);
      const said = await guest(await cloudKernel(), path, 'chroot /c /usr/bin/python3 /tests/posix.py /mnt');
      expect(lines(said, /^failed/)).toEqual([]);
      expect(lines(said, /^ok /)).toEqual(lines(local.stdout, /^ok /));
      expect(said).toMatch(/^\d+ checks, 0 failed$/m);
    },
    LIMIT_MS,
  );
});
