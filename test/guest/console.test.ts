import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { packageRoot } from '../../images/debian/cache.ts';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { cloudKernel, initOf, openHost } from './support.ts';

// Linux's own driver of the virtio console, in a guest without udev.

const FLOOD = 8 * 2 ** 20;

const SCRIPT = `
load-modules
until [ -e /dev/hvc0 ] && [ -e /sys/class/virtio-ports/vport*p1/name ]; do sleep 0.1; done
port=/dev/$(basename $(dirname /sys/class/virtio-ports/vport*p1/name))
echo "name=$(cat /sys/class/virtio-ports/vport*p1/name)"
exec 4<>/dev/hvc0
before=$(stty size <&4 2>/dev/null)
echo "ready"
while [ "$(stty size <&4 2>/dev/null)" = "$before" ]; do sleep 0.1; done
echo "size=$(stty size <&4)"
exec 3<>$port
read -r line <&3
echo "heard=$line"
echo "from the guest" >&3
stty -echo <&4
echo "on hvc0" >&4
read -r typed <&4
echo "typed=$typed"
read -r line <&3
(dd if=/dev/zero bs=64k count=128 >&3 2>/dev/null; echo "flood=done") &
for i in 1 2 3; do sleep 1; echo "alive=$i"; done
wait
# the client goes: the port is at its end
cat <&3 >/dev/null
echo "closed"
poweroff -f
`;

type Seen = {
  readonly reason: string;
  /** while the client took nothing */
  readonly stalled: { readonly done: boolean; readonly heard: number };
  readonly serial: string;
  readonly hvc0: string;
  readonly port: string;
  readonly flood: number;
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

describe.each(['pci', 'mmio'])('over %s', (transport) => {
  const boot = async (): Promise<Seen> => {
    const modules = ['virtio_pci', 'virtio_mmio', 'virtio_console'];
    const initrd = await initramfsFile({ init: initOf(SCRIPT), modules: { kernel, names: modules } });
    const program = join(import.meta.dirname, 'programs/console-ports.mjs');
    const library = join(packageRoot(), 'dist/index.js');
    const socket = `/tmp/console-${transport}.sock`;
    const { stdout, stderr } = await host.exec(
      ['node', program, library, kernel.vmlinuz, initrd, transport, socket],
      { timeoutMs: 150_000 },
    );
    const line = stdout.trim().split('\n').at(-1) ?? '';
    if (!line.startsWith('{')) throw new Error(`no answer: ${stdout}${stderr}`);
    return JSON.parse(line) as Seen;
  };

  test('Linux finds hvc0 and the port by name, bytes pass both ways, and a client that stalls stalls nobody', async () => {
    const seen = await boot();
    expect(seen.serial).toContain('name=org.example.test');
    expect(seen.serial).toContain('heard=from the host');
    expect(seen.port).toBe('from the guest\n');
    expect(seen.hvc0).toContain('on hvc0');
    expect(seen.serial).toContain('typed=typed');
    expect(seen.stalled.done, 'the guest’s writer waits').toBe(false);
    expect(seen.flood).toBe(FLOOD);
    expect(seen.serial).toContain('closed');
    expect(seen.serial).toMatch(/size=40 100\r?\n/);
    expect(seen.reason).toBe('poweroff');
  });
});
