import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { GuestHost } from '../lab/host.ts';
import type { DebianGuest } from './debian-guest.ts';

const PROGRAMS = join(import.meta.dirname, 'programs');
const STEP_LIMIT_MS = 300_000;
const GUEST_PORT = 5000;
const VSOCK = { guest: 1234, host: 52 } as const;
const BYTES = 4 * 1024 ** 2;
const TIMES = 4;

export type HostLinks = {
  readonly forward: number;
  /** on the host */
  readonly socket: string;
  readonly folder: string;
};

/** A VM's arguments for {@link hostLinkChecks}. */
export const hostLinkArguments = ({ forward, socket, folder }: HostLinks): string[] => [
  ...['--net', 'user', '-p', `${forward}:${GUEST_PORT}`],
  ...['--vsock', socket],
  ...['--share', `${folder}:/mnt/share`],
];

/** What ties a guest to its host: the user network with a forwarded port, sockets, and a shared folder. */
export function hostLinkChecks(on: () => { host: GuestHost; guest: DebianGuest }, links: HostLinks): void {
  const bring = async (name: string): Promise<string> => {
    const program = readFileSync(join(PROGRAMS, name)).toString('base64');
    await on().guest.say(`echo ${program} | base64 -d > /run/${name}`);
    return `python3 /run/${name}`;
  };
  const hostDoes = async (...argv: readonly (string | number)[]): Promise<string> => {
    const { stdout, stderr } = await on().host.exec(['node', ...argv.map(String)], {
      timeoutMs: STEP_LIMIT_MS,
    });
    return `${stdout}${stderr}`.trim();
  };

  it(
    'gets its address by DHCP, and is reached through a forwarded port',
    async () => {
      const { guest } = on();
      const load = await bring('net-load.py');
      await guest.say(`systemd-run --quiet --unit=net-load ${load} serve ${GUEST_PORT}`);
      await guest.say(
        'for i in $(seq 120); do ip -4 -br addr show up | grep -q " 10.0.2.15/24" && exit; sleep 1; done; ip addr; exit 1',
      );
      for (const verb of ['put', 'get']) {
        const said = await hostDoes(join(PROGRAMS, 'net-load.mjs'), verb, '127.0.0.1', links.forward, BYTES);
        expect(said).toMatch(/^good/);
      }
    },
    STEP_LIMIT_MS,
  );

  it(
    'carries data over sockets that either side has opened',
    async () => {
      const { guest } = on();
      const echo = await bring('vsock-echo.py');
      await guest.say(`systemd-run --quiet --unit=vsock-echo ${echo} serve ${VSOCK.guest}`);
      const connects = guest.run(
        `sleep 2; for i in $(seq 30); do ${echo} connect ${VSOCK.host} ${TIMES} | grep '^0 failed' && exit; sleep 1; done; exit 1`,
      );
      const program = [join(PROGRAMS, 'vsock-host.mjs'), links.socket];
      const args = ['echo', VSOCK.guest, TIMES, VSOCK.host, TIMES, BYTES / TIMES];
      const said = await hostDoes(...program, ...args);
      expect(said).toContain(`"intact":${2 * TIMES}`);
      expect((await connects).code).toBe(0);
    },
    STEP_LIMIT_MS,
  );

  it(
    "shares a folder of the host's, where each sees at once what the other does",
    async () => {
      const { host, guest } = on();
      const { folder } = links;
      await guest.say('for i in $(seq 60); do findmnt -n /mnt/share && exit; sleep 1; done; exit 1');
      await guest.say(
        'cd /mnt/share && mkdir sub && echo from the guest > sub/one && ln -s one sub/two && chmod 640 sub/one && ' +
          'mv sub other && setfattr -n user.tsvm -v yes other/one 2>/dev/null; ln other/one other/three',
      );
      const seen = await host.exec(`cd ${folder}/other && cat two && stat -c '%a %h' one && ls`);
      expect(seen.stdout).toBe('from the guest\n640 2\none\nthree\ntwo\n');
      await host.exec(
        `cd ${folder} && echo from the host > other/one && rm other/two && truncate -s 3G sparse`,
      );
      expect(await guest.say('cd /mnt/share && cat other/three && stat -c %s sparse && ls other')).toBe(
        `from the host\n${3 * 1024 ** 3}\none\nthree\n`,
      );
      // A link that leads out of the folder is the guest's to follow, in its own tree.
      await host.exec(`ln -s /etc/hostname ${folder}/out`);
      expect(await guest.say('cat /mnt/share/out')).toBe(await guest.say('cat /etc/hostname'));
    },
    STEP_LIMIT_MS,
  );
}
