import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GuestHost } from '../lab/host.ts';
import type { DebianGuest } from './debian-guest.ts';
import { bootNetGuest, guestLoad, userDisk } from './net-guest.ts';
import { USER_COMMAND } from './outside.ts';
import { openHost } from './support.ts';

const MIB = 1024 ** 2;
const BOOT_LIMIT_MS = 1_200_000;
const STEP_LIMIT_MS = 1_800_000;
const PORT = 5000;
const NAMES = ['one', 'two', 'three'] as const;
type Name = (typeof NAMES)[number];
const NETWORK = 'lab-net';

/** Three stock Debians on a network of one unprivileged user. @param bytes of the transfers */
export function vmnetChecks(bytes: number): void {
  describe('three Debians on a network of VMs', () => {
    let host: GuestHost;
    const guests = new Map<Name, DebianGuest>();
    const disks = new Map<Name, string>();
    const guest = (name: Name): DebianGuest => guests.get(name)!;

    const boot = async (name: Name): Promise<void> => {
      const args = ['--mem', '512M', '--net', `vmnet=${NETWORK},name=${name}`, '--rng'];
      const options = { disk: disks.get(name)!, name: `vmnet-${name}`, through: USER_COMMAND, args };
      guests.set(name, await bootNetGuest(host, options, PORT));
      await online(name);
    };
    const online = (name: Name): Promise<string> =>
      guest(name).say(
        'for i in $(seq 120); do ip -4 -br addr show up | grep -q " 10\\." && exit; sleep 1; done; exit 1',
      );
    const addressOf = (name: Name): Promise<string> =>
      guest(name).say("ip -4 -br addr show up | grep -o ' 10[^ ]*'");
    const ping = (from: Name, to: string): Promise<string> =>
      guest(from).say(`for i in $(seq 30); do ping -c 1 -W 5 ${to} && exit; sleep 1; done; exit 1`);

    beforeAll(async () => {
      host = await openHost();
      for (const name of NAMES) disks.set(name, await userDisk(host, `vmnet-${name}`));
      // One after the other: each takes the machine for itself.
      for (const name of NAMES) await boot(name);
    }, BOOT_LIMIT_MS);

    afterAll(async () => {
      for (const each of guests.values()) await each.kill();
      await host.exec(`rm -f ${host.scratch}/vmnet-*`);
      await host.close();
    }, BOOT_LIMIT_MS);

    it(
      'ping each other by name, alone and with the domain',
      async () => {
        for (const from of NAMES) {
          for (const to of NAMES.filter((name) => name !== from)) {
            expect(await ping(from, to), `${from} to ${to}`).toContain(' 0% packet loss');
          }
        }
        expect(await ping('one', `three.${NETWORK}.internal`)).toContain(' 0% packet loss');
      },
      STEP_LIMIT_MS,
    );

    it(
      'have no default route there, and no names of the world',
      async () => {
        expect(await guest('one').say('ip route show default')).toBe('');
        expect((await guest('one').run('getent hosts example.org')).code).not.toBe(0);
        expect((await guest('one').run('getent hosts nobody')).code).not.toBe(0);
      },
      STEP_LIMIT_MS,
    );

    it(
      `send each other ${bytes / MIB} MiB`,
      async () => {
        for (const args of [`put two ${PORT} ${bytes}`, `get two ${PORT} ${bytes}`]) {
          const said = await guestLoad(guest('one'), args, STEP_LIMIT_MS);
          console.log(`one: ${args}: ${said}`);
          expect(said).toMatch(/^good/);
        }
      },
      STEP_LIMIT_MS,
    );

    it(
      'reach one that leaves and comes back at the address that it had',
      async () => {
        const before = await addressOf('three');
        expect((await guest('three').powerOff()).code).toBe(0);
        expect((await guest('one').run('getent hosts three')).code).not.toBe(0);
        await boot('three');
        expect(await addressOf('three')).toBe(before);
        expect(await ping('two', 'three')).toContain(' 0% packet loss');
      },
      STEP_LIMIT_MS,
    );

    it(
      'see their link go and come back when the switch is killed, and reach each other again',
      async () => {
        const before = await addressOf('one');
        const from = (await guest('one').say('date +%s')).trim();
        const killed = await host.exec(`pkill -9 -f 'vmnet-switch ${NETWORK}$'`);
        expect(killed.code).toBe(0);
        await guest('one').say('sleep 5');
        for (const name of NAMES) await online(name);
        expect(await ping('one', 'two')).toContain(' 0% packet loss');
        expect(await ping('three', 'one')).toContain(' 0% packet loss');
        expect(await addressOf('one')).toBe(before);
        const journal = await guest('one').say(`journalctl -u systemd-networkd --since @${from} -o cat`);
        expect(journal).toMatch(/Lost carrier[^]*Gained carrier/);
      },
      STEP_LIMIT_MS,
    );
  });
}
