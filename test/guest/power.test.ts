import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { cloudKernel, openHost, runGuest } from './support.ts';

let host: GuestHost;
let kernel: Kernel;

beforeAll(async () => {
  host = await openHost();
  kernel = await cloudKernel();
});
afterAll(async () => {
  await host.close();
});

const EXIT = { off: 0, crashed: 3, reboot: 4, left: 130 } as const;
const ESCAPE = '\x1d';

test('a reboot boots again in the same process', async () => {
  const { code, stdout } = await runGuest(host, {
    kernel,
    script: `
echo "init is up"
read -r answer < /dev/console
[ "$answer" = off ] && poweroff -f
reboot -f`,
    stdin: [
      { after: 'init is up', send: 'again\n' },
      { after: 'init is up', send: 'off\n' },
    ],
  });
  expect(code).toBe(EXIT.off);
  expect(stdout.match(/init is up/g)).toHaveLength(2);
});

test.each([
  { way: 'ACPI reset register', flag: 'a', code: EXIT.reboot },
  { way: 'keyboard controller', flag: 'k', code: EXIT.reboot },
  { way: 'PCI reset port 0xcf9', flag: 'p', code: EXIT.reboot },
  { way: 'triple fault', flag: 't', code: EXIT.crashed },
])('--no-reboot ends the VM on a reset by $way', async ({ flag, code }) => {
  const result = await runGuest(host, {
    kernel,
    script: 'reboot -f',
    cmdline: `reboot=${flag}`,
    args: ['--no-reboot'],
  });
  expect(result.code, result.stderr).toBe(code);
});

test('a panic with panic=-1 resets', async () => {
  const { code, stdout } = await runGuest(host, {
    kernel,
    script: 'exit 1',
    cmdline: 'panic=-1',
    args: ['--no-reboot'],
  });
  expect(stdout).toContain('Kernel panic - not syncing');
  expect(code).toBe(EXIT.reboot);
});

test('a panic that the guest reports by pvpanic ends the VM as crashed', async () => {
  const { code, stderr } = await runGuest(host, {
    kernel,
    modules: ['pvpanic-mmio'],
    script: 'load-modules && echo c > /proc/sysrq-trigger',
  });
  expect(code).toBe(EXIT.crashed);
  expect(stderr).toMatch(/panic/);
});

test('Ctrl-Alt-Del from the console reboots the guest', async () => {
  const { code } = await runGuest(host, {
    kernel,
    script: 'echo 1 > /proc/sys/kernel/ctrl-alt-del; echo waiting; sleep 1000',
    args: ['--no-reboot'],
    terminal: true,
    stdin: [{ after: 'waiting', send: `${ESCAPE}c` }],
  });
  expect(code).toBe(EXIT.reboot);
});

test('the power button is an ACPI event that the guest hears', async () => {
  const { code, stdout } = await runGuest(host, {
    kernel,
    modules: ['button', 'evdev'],
    // struct input_event of 64-bit Linux: 16 bytes of time (od's first line), type, code, value; KEY_POWER is 116
    script: `
load-modules
event=$(grep -A 5 'Name="Power Button"' /proc/bus/input/devices | grep -o 'event[0-9]*')
exec 3< /dev/input/$event
echo waiting
head -c 24 <&3 | od -An -tu2 | tail -1 | sed 's/^/event=/'
poweroff -f`,
    terminal: true,
    stdin: [{ after: 'waiting', send: `${ESCAPE}p` }],
  });
  expect(stdout).toMatch(/event=\s+1\s+116\s+1\s+0/);
  expect(code).toBe(EXIT.off);
});

test('Ctrl-] q leaves', async () => {
  const { code } = await runGuest(host, {
    kernel,
    script: 'echo waiting; sleep 1000',
    terminal: true,
    stdin: [{ after: 'waiting', send: `${ESCAPE}q` }],
  });
  expect(code).toBe(EXIT.left);
});
