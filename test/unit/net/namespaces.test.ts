/** Real network stacks through the back ends, without a machine around them. Needs root, taps and namespaces. */
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { parseForward } from '../../../src/net/forward.ts';
import { openUserNetwork } from '../../../src/net/user-network.ts';
import { formatAddress } from '../../../src/net/vmnet/packet.ts';
import { subnetOf } from '../../../src/net/vmnet/leases.ts';
import { openVmnet } from '../../../src/net/vmnet-network.ts';
import { bundleScript } from '../../support/bundle-script.ts';
import { dhcpAsk } from '../../support/net/dhcp-client.ts';
import { canMakeNamespaces, NamespaceGuest } from '../../support/net/namespace-guest.ts';
import { Station } from '../../support/net/station.ts';
import { TestNetwork } from '../../support/net/test-network.ts';

const able = canMakeNamespaces();
if (!able) console.log('no root, or no network namespaces: real stacks over the back ends are not tested');
const havePasst = existsSync('/usr/bin/passt');

const LOAD = join(import.meta.dirname, '../../guest/programs/net-load.mjs');
const PORT = 5000;
const SIZE = 64 * 1024 ** 2;
const LIMIT_MS = 120_000;

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const load = (guest: NamespaceGuest, ...args: readonly (string | number)[]): Promise<string> =>
  guest.sh(`${process.execPath} ${LOAD} ${args.join(' ')}`);

/** Runs the load on the host, next to this process. */
function hostLoad(...args: readonly (string | number)[]): Promise<string> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [LOAD, ...args.map(String)]);
    let said = '';
    child.stdout.on('data', (data: Buffer) => (said += data.toString()));
    child.on('close', () => resolve(said));
  });
}

async function serving(guest: NamespaceGuest): Promise<void> {
  guest.start(process.execPath, LOAD, 'serve', '::', `${PORT}`);
  await guest.sh(`for i in $(seq 100); do ss -Hltn | grep -q :${PORT} && exit; sleep 0.1; done; exit 1`);
}

describe.runIf(able && havePasst)('a network stack behind passt', () => {
  async function guestOf(mtu = 65520, hostAccess = false) {
    const forwards = ['0:5000', '0:5000/udp'].map(parseForward);
    const lines: string[] = [];
    const network = await openUserNetwork({
      name: 'user0',
      forwards,
      mtu,
      hostAccess,
      log: (line) => lines.push(line),
    });
    closing.push(() => network.backend.close());
    const mac = '52:54:00:00:00:01';
    const reply = await dhcpAsk(new Station(network.backend.ports[0]!, mac), 1);
    const gateway = formatAddress(reply.options.get(3)!.readUInt32BE(0));
    const addresses = [`${formatAddress(reply.address)}/24`];
    const guest = await NamespaceGuest.open(network.backend, { mac, mtu, addresses }, [gateway]);
    closing.push(() => guest.close());
    await serving(guest);
    const [tcp, udp] = network.forwards.map(({ host }) => host);
    return { guest, gateway, tcp: tcp!, udp: udp! };
  }

  it.each([65520, 1500])(
    'exchanges 64 MiB each way with the host through a forward, in packets of %i bytes',
    async (mtu) => {
      const { tcp } = await guestOf(mtu);
      expect(await hostLoad('put', '127.0.0.1', tcp, SIZE)).toMatch(/^good/);
      expect(await hostLoad('get', '127.0.0.1', tcp, SIZE)).toMatch(/^good/);
    },
    LIMIT_MS,
  );

  it(
    'takes short connections and datagrams',
    async () => {
      // Without access to the host, passt of before 2024 brings no answers back to the host's own loopback.
      const { tcp, udp } = await guestOf(65520, true);
      expect(await hostLoad('short', '127.0.0.1', tcp, 200)).toMatch(/^good/);
      expect(await hostLoad('udp', '127.0.0.1', udp, 1000)).toMatch(/^good/);
    },
    LIMIT_MS,
  );

  it(
    "does not reach what listens on the host's loopback, by its gateway or by a route of its own",
    async () => {
      const { guest, gateway, tcp } = await guestOf();
      const reach = (address: string): Promise<string> =>
        guest.sh(
          `timeout 3 ${process.execPath} -e "require('net').connect(${tcp}, '${address}', () => console.log('reached')).on('error', () => console.log('refused'))" || true`,
        );
      expect(await reach(gateway)).not.toContain('reached');
      // What leaves the guest for 127.0.0.0/8 is what the guest says it is.
      await guest.sh(
        'sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1; ' +
          `ip route del table local 127.0.0.0/8 dev lo; ip route add 127.9.9.9/32 via ${gateway} dev eth0; ip link set lo down; true`,
      );
      expect(await reach('127.9.9.9')).not.toContain('reached');
    },
    LIMIT_MS,
  );
});

describe.runIf(able)('network stacks on a network of VMs', () => {
  const address = (host: number): string => formatAddress(subnetOf('lan').base + 100 + host);

  async function lan(count: number): Promise<NamespaceGuest[]> {
    const network = new TestNetwork();
    closing.push(() => network.close());
    const guests = [];
    for (let i = 1; i <= count; i++) {
      const { backend } = await network.join(i);
      const card = { mac: `52:54:00:00:00:0${i}`, mtu: 1500, addresses: [`${address(i)}/20`] };
      const guest = await NamespaceGuest.open(backend, card);
      closing.push(() => guest.close());
      guests.push(guest);
    }
    return guests;
  }

  it(
    'exchange 64 MiB each way while a third one is there',
    async () => {
      const [one, two] = await lan(3);
      await serving(two!);
      const said = [
        await load(one!, 'put', address(2), PORT, SIZE),
        await load(one!, 'get', address(2), PORT, SIZE),
      ];
      for (const line of said) expect(line).toMatch(/^good/);
    },
    LIMIT_MS,
  );
});

describe('a switch in a process of its own', () => {
  it(
    'is started by the first VM, started again when it was killed, and ends after the last one',
    async () => {
      const network = new TestNetwork();
      closing.push(() => network.close());
      const script = await bundleScript(`
        import { serveVmnet } from './src/net/vmnet/serve.ts';
        import { vmnetPlace } from './src/net/vmnet/place.ts';
        const signal = new AbortController().signal;
        await serveVmnet(vmnetPlace('far', ${JSON.stringify(network.folder)}), { log: console.log, signal, lingerMs: 300 });
      `);
      const lines: string[] = [];
      const backend = await openVmnet({
        network: 'far',
        folder: network.folder,
        mac: '52:54:00:00:00:01',
        uplink: false,
        log: (line) => lines.push(line),
        command: [process.execPath, script],
      });
      closing.push(() => backend.close());
      const changes: boolean[] = [];
      backend.onLink = (up) => changes.push(up);
      const [first] = processesOf(script);
      process.kill(first!, 'SIGKILL');
      await until(() => changes.length === 2);
      expect(changes).toEqual([false, true]);
      expect(lines).toEqual([
        'vmnet far: the link is down: its peer has gone',
        'vmnet far: the link is up again',
      ]);
      expect(processesOf(script)).not.toContain(first);
      expect(processesOf(script)).toHaveLength(1);
      await backend.close();
      await until(() => processesOf(script).length === 0);
    },
    LIMIT_MS,
  );
});

async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + LIMIT_MS / 4;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not in time: ${condition.toString()}`);
    await sleep(20);
  }
}

function processesOf(script: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(script);
      } catch {
        return false;
      }
    });
}
