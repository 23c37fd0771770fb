import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GuestHost } from '../lab/host.ts';
import type { DebianGuest } from './debian-guest.ts';
import { bootNetGuest, GUEST_PROGRAM, guestLoad, userDisk } from './net-guest.ts';
import {
  INSIDE_COMMAND,
  INSIDE_IP4,
  INSIDE_IP6,
  Outside,
  OUTSIDE_IP4,
  OUTSIDE_IP6,
  OUTSIDE_NAME,
  OUTSIDE_PORT,
} from './outside.ts';
import { openHost } from './support.ts';

const MIB = 1024 ** 2;
const BOOT_LIMIT_MS = 900_000;
const STEP_LIMIT_MS = 1_800_000;
const GUEST_PORT = 5000;
const FORWARD = { ip4: 18_004, ip6: 18_006 };

/** A stock Debian behind passt, which an unprivileged user runs. @param amounts of the transfers */
export function userNetworkChecks(amounts: { readonly bytes: number; readonly connections: number }): void {
  describe('a Debian on the user network', () => {
    let host: GuestHost;
    let outside: Outside;
    let guest: DebianGuest;
    const { bytes, connections } = amounts;

    const fromGuest = async (args: string): Promise<void> => {
      const said = await guestLoad(guest, args, STEP_LIMIT_MS);
      console.log(`guest: ${args}: ${said}`);
      expect(said).toMatch(/^good/);
    };
    const fromHost = async (...args: readonly (string | number)[]): Promise<void> => {
      const said = await outside.load(args.map(String), STEP_LIMIT_MS);
      console.log(`host: ${args.join(' ')}: ${said}`);
      expect(said).toMatch(/^good/);
    };
    /** Waits until the guest has an address again. */
    const online = (): Promise<string> =>
      guest.say(
        'for i in $(seq 120); do ip -4 -br addr show up | grep -q 192.0.2 && exit; sleep 1; done; exit 1',
      );

    beforeAll(async () => {
      host = await openHost();
      outside = await Outside.make(host);
      const disk = await userDisk(host, 'net-user');
      const publish = [`${FORWARD.ip4}:${GUEST_PORT}`, `[::1]:${FORWARD.ip6}:${GUEST_PORT}`];
      const args = ['--net', 'user', ...publish.flatMap((forward) => ['-p', forward]), '--rng'];
      guest = await bootNetGuest(host, { disk, name: 'net-user', through: INSIDE_COMMAND, args }, GUEST_PORT);
      await online();
    }, BOOT_LIMIT_MS);

    afterAll(async () => {
      await guest.kill();
      await outside.close();
      await host.exec(`rm -f ${host.scratch}/net-user*`);
      await host.close();
    }, BOOT_LIMIT_MS);

    it(
      "has the host's addresses and routes of both families, and the largest packets",
      async () => {
        const said = await guest.say(
          'ip -br addr show up; ip route; ip -6 route; cat /sys/class/net/en*/mtu',
        );
        expect(said).toContain(`${INSIDE_IP4}/24`);
        expect(said).toContain(INSIDE_IP6.slice(0, 11));
        expect(said).toMatch(new RegExp(`default via ${OUTSIDE_IP4}`));
        expect(said).toMatch(/default via fe80|default via 2001/);
        expect(said).toContain('65520');
      },
      STEP_LIMIT_MS,
    );

    it(
      'resolves names of the world to addresses of both families',
      async () => {
        const said = await guest.say(`getent ahosts ${OUTSIDE_NAME}`);
        expect(said).toContain(OUTSIDE_IP4);
        expect(said).toContain(OUTSIDE_IP6);
      },
      STEP_LIMIT_MS,
    );

    it.each([OUTSIDE_IP4, OUTSIDE_IP6])(
      `sends ${bytes / MIB} MiB to %s and gets as many from there`,
      async (address) => {
        await fromGuest(`put ${address} ${OUTSIDE_PORT} ${bytes}`);
        await fromGuest(`get ${address} ${OUTSIDE_PORT} ${bytes}`);
      },
      STEP_LIMIT_MS,
    );

    it.each([
      ['127.0.0.1', FORWARD.ip4],
      ['::1', FORWARD.ip6],
    ])(
      `is sent ${bytes / MIB} MiB through a forward of %s, and gives as many`,
      async (address, port) => {
        await fromHost('put', address, port, bytes);
        await fromHost('get', address, port, bytes);
      },
      STEP_LIMIT_MS,
    );

    it(
      `makes and takes ${connections} short connections`,
      async () => {
        await fromGuest(`short ${OUTSIDE_IP4} ${OUTSIDE_PORT} ${connections}`);
        await fromHost('short', '127.0.0.1', FORWARD.ip4, connections);
      },
      STEP_LIMIT_MS,
    );

    it(
      'exchanges datagrams with the outside by both families',
      async () => {
        await fromGuest(`udp ${OUTSIDE_IP4} ${OUTSIDE_PORT} 1000`);
        await fromGuest(`udp ${OUTSIDE_IP6} ${OUTSIDE_PORT} 1000`);
      },
      STEP_LIMIT_MS,
    );

    it(
      "does not reach the host's loopback at its gateway's address",
      async () => {
        // On the host's loopback that port leads to the guest itself: it does listen.
        const said = await guest.say(
          `python3 -c "import socket; socket.create_connection(('${OUTSIDE_IP4}', ${FORWARD.ip4}), 5)" 2>&1 | tail -1`,
        );
        expect(said).toMatch(/refused|timed out|unreachable/i);
      },
      STEP_LIMIT_MS,
    );

    it(
      'sees its link go and come back when passt is killed during a transfer, and goes on',
      async () => {
        const from = (await guest.say('date +%s')).trim();
        const load = `python3 ${GUEST_PROGRAM} get ${OUTSIDE_IP4} ${OUTSIDE_PORT} ${256 * MIB}`;
        // By itself: the agent has one client at a time.
        await guest.say(`systemd-run --quiet --unit=transfer ${load}`);
        await guest.say('sleep 2; systemctl is-active transfer');
        const killed = await outside.inside('pkill -9 passt; echo $?');
        expect(killed).toBe('0');
        await guest.say('sleep 3');
        await online();
        await fromGuest(`get ${OUTSIDE_IP4} ${OUTSIDE_PORT} ${MIB}`);
        await fromHost('get', '127.0.0.1', FORWARD.ip4, MIB);
        const journal = await guest.say(`journalctl -u systemd-networkd --since @${from} -o cat`);
        expect(journal).toMatch(/Lost carrier[^]*Gained carrier/);
        await guest.run('systemctl stop transfer');
      },
      STEP_LIMIT_MS,
    );

    it(
      'leaves no passt behind when its VMM is killed',
      async () => {
        expect(await outside.inside('pgrep passt')).toMatch(/^\d+$/);
        await guest.kill();
        const left = 'for i in $(seq 50); do pgrep passt >/dev/null || exit 0; sleep 0.1; done; pgrep passt';
        expect(await outside.inside(left)).toBe('');
      },
      STEP_LIMIT_MS,
    );
  });
}
