import { afterAll, beforeAll, expect, test } from 'vitest';
import { DebianGuest } from '../guest/debian-guest.ts';
import { openHost } from '../guest/support.ts';
import type { GuestHost } from '../lab/host.ts';

const BOOTS = 20;
/** each transport with each console and one and two vCPUs */
const FORMS = ['pci', 'mmio'].flatMap((transport) =>
  (['serial', 'hvc0'] as const).flatMap((console) => [1, 2].map((cpus) => ({ transport, console, cpus }))),
);

let host: GuestHost;
let disk: string;

beforeAll(async () => {
  host = await openHost();
  disk = await host.debianDisk('debian-soak.raw');
});
afterAll(async () => {
  await host.close();
});

/** The same disk each time: what one boot leaves behind is what the next one finds. */
test(`${BOOTS} boots of ${BOOTS} of a Debian from its disk reach a login, with no failed unit, and power off`, async () => {
  for (let boot = 0; boot < BOOTS; boot++) {
    const { transport, console: where, cpus } = FORMS[boot % FORMS.length]!;
    const what = `boot ${boot + 1}: over ${transport} with ${cpus} vCPUs, login on ${where}`;
    const args = ['--transport', transport, '--cpus', String(cpus), '--rng', '--balloon'];
    const guest = await DebianGuest.boot(host, { disk, name: 'debian-soak', console: where, args });
    const tty = await guest.loginAndRun('tty');
    expect(tty.trim(), what).toBe(where === 'serial' ? '/dev/ttyS0' : '/dev/hvc0');
    await guest.agentReady();
    await guest.expectHealthy();
    expect((await guest.powerOff()).code, what).toBe(0);
    console.log(`${what}: up`);
  }
});
