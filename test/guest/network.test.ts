import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { packageRoot } from '../../images/debian/cache.ts';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { insertModules } from '../lab/modules.ts';
import { cloudKernel, initOf, openHost } from './support.ts';

// Linux's own driver of the network card, on a tap in a bridge of a network namespace.

const GUEST = `
load-modules
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
ip link set eth0 up
ip addr add 10.99.0.2/24 dev eth0
echo "mac=$(cat /sys/class/net/eth0/address)"
echo "mtu=$(cat /sys/class/net/eth0/mtu)"
echo "speed=$(cat /sys/class/net/eth0/speed)"
echo "duplex=$(cat /sys/class/net/eth0/duplex)"
echo "queues=$(echo $(ls /sys/class/net/eth0/queues))"
echo "features=$(cat /sys/class/net/eth0/device/features)"
until ping -c 1 -W 1 10.99.0.1 >/dev/null; do sleep 0.2; done
for cpu in 1 2; do taskset $cpu ping -c 5 -i 0.2 -s 1400 10.99.0.1 | grep received; done
nc 10.99.0.1 5001 | sha256sum
head -c 8388608 /dev/urandom > /tmp/sent
sha256sum /tmp/sent
nc 10.99.0.1 5002 < /tmp/sent
nc -l -p 5003 > /tmp/got &
until grep -q ':138B ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done
echo listening
wait
sha256sum /tmp/got
echo "carrier=$(cat /sys/class/net/eth0/carrier)"
until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do sleep 0.1; done
echo "operstate=$(cat /sys/class/net/eth0/operstate)"
echo "carrier=0"
until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 0.1; done
until ping -c 1 -W 1 10.99.0.1 >/dev/null; do sleep 0.2; done
echo "back=1"
echo "errors=$(cat /sys/class/net/eth0/statistics/rx_errors) $(cat /sys/class/net/eth0/statistics/tx_errors)"
poweroff -f
`;

type Traffic = { readonly receivedFrames: number; readonly sentFrames: number; readonly refused: number };
type Seen = {
  readonly serial: string;
  readonly toGuest: string;
  readonly fromGuest: string;
  readonly reason: string;
  readonly ports: boolean;
  readonly left: boolean;
  readonly card: { readonly mac: string; readonly queues: readonly Traffic[] };
  readonly lines: readonly string[];
};

/** VIRTIO 1.2, 5.1.3: as Linux shows what the driver has accepted, a character a bit */
const BIT = {
  csum: 0,
  guestCsum: 1,
  guestTso4: 7,
  hostTso4: 11,
  mrgRxbuf: 15,
  status: 16,
  ctrlVq: 17,
  mq: 22,
};

let host: GuestHost;
let kernel: Kernel;

beforeAll(async () => {
  host = await openHost();
  kernel = await cloudKernel();
  await insertModules(host, ['tun', 'bridge']);
}, 600_000);
afterAll(async () => {
  await host.close();
});

describe('a network card on a tap', () => {
  let seen: Seen;
  const said = (pattern: RegExp): string[] => [...seen.serial.matchAll(pattern)].map((match) => match[1]!);

  beforeAll(async () => {
    const initrd = await initramfsFile({
      init: initOf(GUEST),
      modules: { kernel, names: ['virtio_pci', 'virtio_net'] },
    });
    const program = join(packageRoot(), 'test/guest/programs/tap-network.mjs');
    const library = join(packageRoot(), 'dist/index.js');
    const command = ['unshare', '-n', 'node', program, library, kernel.vmlinuz, initrd];
    const { code, stdout, stderr } = await host.exec(command, { timeoutMs: 300_000 });
    if (code !== 0) throw new Error(`status ${code}: ${stdout}${stderr}`);
    seen = JSON.parse(stdout) as Seen;
    if (seen.reason !== 'poweroff') throw new Error(`the guest did not get to its end:\n${stdout}`);
  }, 400_000);

  test('has the address and the settings that it was given', () => {
    expect(said(/^mac=(.*?)\r?$/gm)).toEqual(['52:54:00:aa:bb:cc']);
    expect(seen.card.mac).toBe('52:54:00:aa:bb:cc');
    expect(said(/^mtu=(.*?)\r?$/gm)).toEqual(['1500']);
    expect(said(/^speed=(.*?)\r?$/gm)).toEqual(['10000']);
    expect(said(/^duplex=(.*?)\r?$/gm)).toEqual(['full']);
  });

  test('is used with its offloads, merged buffers, commands and queues', () => {
    const [features = ''] = said(/^features=([01]+)/gm);
    for (const bit of Object.values(BIT)) expect(`${bit}: ${features[bit]}`).toBe(`${bit}: 1`);
    expect(said(/^queues=(.*?)\r?$/gm)).toEqual(['rx-0 rx-1 tx-0 tx-1']);
    for (const { sentFrames, refused } of seen.card.queues) {
      expect(sentFrames).toBeGreaterThan(0);
      expect(refused).toBe(0);
    }
  });

  test('answers pings from both CPUs', () => {
    expect(said(/(\d+) packets received/g)).toEqual(['5', '5']);
  });

  test('carries TCP both ways, from either side', () => {
    const [got, sent, pushed] = said(/^([0-9a-f]{64})/gm);
    expect(got).toBe(seen.toGuest);
    expect(seen.fromGuest).toBe(sent);
    expect(pushed).toBe(seen.toGuest);
    expect(said(/^errors=(.*?)\r?$/gm)).toEqual(['0 0']);
  });

  test('shows the guest its cable pulled out and plugged in again', () => {
    expect(said(/^carrier=([01])/gm)).toEqual(['1', '0']);
    expect(said(/^operstate=(.*?)\r?$/gm)).toEqual(['down']);
    expect(said(/^back=(1)/gm)).toEqual(['1']);
  });

  test('is a port of the bridge while the VM runs, and gone afterwards', () => {
    expect(seen.ports).toBe(true);
    expect(seen.left).toBe(false);
    expect(seen.lines).toEqual([]);
  });
});
