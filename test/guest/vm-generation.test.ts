import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packageRoot } from '../../images/debian/cache.ts';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { amd64Kernel, initOf, openHost } from './support.ts';

// Linux's own driver of the VM generation id, and ACPICA's general-purpose events.

const SCRIPT = `
load-modules
forks() { dmesg | grep -c 'crng reseeded due to virtual machine fork'; }
count() { sed -n "s/^ *\\([0-9]*\\).*/\\1/p" /sys/firmware/acpi/interrupts/$1; }
echo "driver=$(ls /sys/bus/acpi/drivers/vmgenid /sys/bus/platform/drivers/vmgenid 2>/dev/null | grep -c TSVM0001)"
echo "before=$(forks) $(count gpe00)"
echo ready
until [ "$(forks)" = 1 ]; do sleep 0.1; done
echo forks=1
until [ "$(count ff_pwr_btn)" = 1 ]; do sleep 0.1; done
echo buttons=1
until [ "$(forks)" = 2 ]; do sleep 0.1; done
echo forks=2
until [ "$(forks)" = 3 ]; do sleep 0.1; done
echo "after=$(forks) $(count gpe00) $(count sci) $(count sci_not)"
dmesg -r | grep -E '^<[0-4]>' | grep -iE 'acpi|gpe|irq 9|vmgenid|nobody cared' | sed 's/^/warning=/'
poweroff -f
`;

let host: GuestHost;
let kernel: Kernel;

beforeAll(async () => {
  host = await openHost();
  // That for clouds has no driver of it.
  kernel = await amd64Kernel();
});
afterAll(async () => {
  await host.close();
});

test('a guest that is given another VM generation id, or goes on in a copy, seeds its random numbers anew', async () => {
  const initrd = await initramfsFile({ init: initOf(SCRIPT), modules: { kernel, names: ['button'] } });
  const program = join(import.meta.dirname, 'programs/vm-generation.mjs');
  const library = join(packageRoot(), 'dist/index.js');
  const folder = join(host.scratch, 'vm-generation');
  const { stdout, stderr } = await host.exec(['node', program, library, kernel.vmlinuz, initrd, folder], {
    timeoutMs: 240_000,
  });
  const line = stdout.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{')) throw new Error(`no answer: ${stdout}${stderr}`);
  const { reason, serial } = JSON.parse(line) as { reason: string; serial: string };
  expect(reason, serial).toBe('poweroff');
  const fact = (name: string): string | undefined => new RegExp(`^${name}=(.*?)\\r?$`, 'm').exec(serial)?.[1];
  expect(fact('driver')).toBe('1');
  expect(fact('before')).toBe('0 0');
  // Three events and a press of the power button: no interrupt is lost, repeated, or nobody's.
  expect(fact('after')).toBe('3 3 4 0');
  expect(serial).not.toContain('warning=');
});
