import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestHost } from '../lab/host.ts';
import { DebianGuest, type DebianOptions } from './debian-guest.ts';

const PROGRAM = join(import.meta.dirname, 'programs/net-load.py');
/** in the guest */
export const GUEST_PROGRAM = '/run/net-load.py';

/** Makes a copy of Debian's disk that a user without rights may write to, and a folder for its sockets. */
export async function userDisk(host: GuestHost, name: string): Promise<string> {
  const disk = await host.debianDisk(`${name}.raw`);
  await host.exec(['chmod', '1777', host.scratch]);
  await host.exec(['chown', '1000:1000', disk]);
  return disk;
}

/** The amounts take their time in an emulated host. */
const RUN_LIMIT_MS = 7_200_000;

/** A Debian that has the load program, and answers at its port. */
export async function bootNetGuest(
  host: GuestHost,
  options: DebianOptions,
  port: number,
): Promise<DebianGuest> {
  const guest = await DebianGuest.boot(host, { limitMs: RUN_LIMIT_MS, ...options });
  await guest.agentReady();
  const program = readFileSync(PROGRAM).toString('base64');
  await guest.say(`echo ${program} | base64 -d > ${GUEST_PROGRAM}`);
  await guest.say(`systemd-run --quiet --unit=net-load python3 ${GUEST_PROGRAM} serve ${port}`);
  await guest.say('networkctl up $(ls /sys/class/net | grep -v lo) || true');
  return guest;
}

/** Runs the load program in the guest; returns what it says. */
export async function guestLoad(guest: DebianGuest, args: string, limitMs: number): Promise<string> {
  const { stdout, stderr } = await guest.run(`python3 ${GUEST_PROGRAM} ${args}`, limitMs);
  return `${stdout}${stderr}`.trim();
}
