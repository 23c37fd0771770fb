import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { packageRoot } from '../../images/debian/cache.ts';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { cloudKernel, initOf, openHost } from './support.ts';

// Linux's own drivers of the balloon and the entropy device.

const MIB = 2 ** 20;

const SCRIPT = `
load-modules
until [ "$(cat /sys/class/misc/hw_random/rng_current)" = virtio_rng.0 ]; do sleep 0.1; done
echo "random=$(dd if=/dev/hwrng bs=1024 count=8 2>/dev/null | md5sum)"
echo "again=$(dd if=/dev/hwrng bs=1024 count=8 2>/dev/null | md5sum)"
mount -t tmpfs -o size=200m tmpfs /mnt
dd if=/dev/zero of=/mnt/file bs=1M count=120 2>/dev/null
echo "filled"
read -r line
rm /mnt/file
echo "freed"
read -r line
dmesg -r | grep -E '^<[0-4]>' | grep -E 'virtio|balloon|hwrng' | sed 's/^/warning=/'
poweroff -f
`;

type Seen = {
  readonly reason: string;
  /** bytes of the guest's RAM in the host's memory */
  readonly filled: number;
  readonly freed: number;
  /** bytes in the balloon */
  readonly inflated: number;
  readonly deflated: number;
  readonly statistics?: Readonly<Record<string, number>>;
  readonly after?: Readonly<Record<string, number>>;
  readonly serial: string;
  readonly log: readonly string[];
};

let host: GuestHost;
let kernel: Kernel;

beforeAll(async () => {
  host = await openHost();
  kernel = await cloudKernel();
});
afterAll(async () => {
  await host.close();
});

describe('over virtio-pci', () => {
  test('a guest draws random numbers and gives memory back, reported as free and in its balloon', async () => {
    const modules = ['virtio_pci', 'virtio-rng', 'virtio_balloon'];
    const initrd = await initramfsFile({ init: initOf(SCRIPT), modules: { kernel, names: modules } });
    const program = join(import.meta.dirname, 'programs/give-back.mjs');
    const library = join(packageRoot(), 'dist/index.js');
    const { stdout, stderr } = await host.exec(['node', program, library, kernel.vmlinuz, initrd], {
      timeoutMs: 240_000,
    });
    const line = stdout.trim().split('\n').at(-1) ?? '';
    if (!line.startsWith('{')) throw new Error(`no answer: ${stdout}${stderr}`);
    const seen = JSON.parse(line) as Seen;
    expect(seen.reason, seen.serial).toBe('poweroff');
    const fact = (name: string): string | undefined =>
      new RegExp(`^${name}=([0-9a-f]{32})`, 'm').exec(seen.serial)?.[1];
    expect(fact('random')).toBeDefined();
    expect(fact('again')).toBeDefined();
    expect(fact('again')).not.toBe(fact('random'));
    expect(seen.filled).toBeGreaterThan(120 * MIB);
    expect(seen.filled - seen.freed).toBeGreaterThan(80 * MIB);
    expect([seen.inflated, seen.deflated]).toEqual([160 * MIB, 0]);
    // the guest lacks what it has given away, and has it back afterwards
    expect(seen.statistics?.['free']).toBeLessThan(140 * MIB);
    expect(seen.after!['free']! - seen.statistics!['free']!).toBeGreaterThan(120 * MIB);
    expect(seen.serial).not.toContain('warning=');
    expect(seen.log).toEqual([]);
  });
});
