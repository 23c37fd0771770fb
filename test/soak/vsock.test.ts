import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildVsockPeer } from '../guests/vsock-peer.ts';
import type { GuestHost } from '../lab/host.ts';
import { DebianGuest } from '../guest/debian-guest.ts';
import { openHost } from '../guest/support.ts';

// AF_VSOCK of a stock Debian, through the command line.

const BOOT_LIMIT_MS = 600_000;
const STEP_LIMIT_MS = 300_000;
const MIB = 2 ** 20;
const HOST_PROGRAM = join(import.meta.dirname, '../guest/programs/vsock-host.mjs');
const PEER = '/usr/local/bin/vsock-peer';
const ECHO_PORT = 1234;

let host: GuestHost;
let disk: string;
let socket: string;
let peer: string;
let guest: DebianGuest;

beforeAll(async () => {
  host = await openHost();
  disk = await host.debianDisk('vsock-debian.raw');
  peer = await buildVsockPeer(host.shared);
  socket = join(host.scratch, 'vsock.sock');
}, BOOT_LIMIT_MS);

afterAll(async () => {
  await host.exec(`rm -f ${host.scratch}/vsock*`);
  await host.close();
});

async function boot(name: string, ...args: string[]): Promise<DebianGuest> {
  const booted = await DebianGuest.boot(host, {
    limitMs: 7_200_000,
    disk,
    name,
    args: ['--disk', `${peer},ro`, '--vsock', socket, ...args],
  });
  await booted.agentReady();
  await booted.say(`cat /dev/vdb > ${PEER} && chmod +x ${PEER}`);
  return booted;
}

/** Starts a program in the guest that goes on by itself. */
async function starts(name: string, args: string): Promise<void> {
  const line = `rm -f /root/${name}.*; setsid sh -c '${PEER} ${args} > /root/${name}.out 2>&1; touch /root/${name}.done'`;
  await guest.say(`${line} > /dev/null 2>&1 &`);
}

/** What it has said, once it has ended. */
async function outcome(name: string): Promise<string> {
  return guest.say(`until [ -e /root/${name}.done ]; do sleep 0.1; done; cat /root/${name}.out`);
}

/** Runs a verb of the host's program; `listening` is called once the guest can connect to it. */
async function hostDoes<Answer>(
  args: string,
  hooks: Readonly<Record<string, () => Promise<unknown>>> = {},
): Promise<Answer> {
  let seen = '';
  const acting = new Map<string, Promise<unknown>>();
  const { code, stdout, stderr } = await host.exec(`node ${HOST_PROGRAM} ${socket} ${args}`, {
    timeoutMs: STEP_LIMIT_MS,
    onOutput: (data, stream) => {
      if (stream !== 'stderr') return;
      seen += data.toString();
      for (const [line, act] of Object.entries(hooks)) {
        if (seen.includes(`${line}\n`) && !acting.has(line)) acting.set(line, act());
      }
    },
  });
  await Promise.all(acting.values());
  if (code !== 0) throw new Error(`${args}: status ${code}: ${stdout}${stderr}`);
  return JSON.parse(stdout) as Answer;
}

const vmmOf = (name: string): string => `$(cat ${join(host.scratch, `${name}.pid`)})`;

type Echo = { readonly connections: number; readonly intact: number };

describe('over virtio-pci', () => {
  beforeAll(async () => {
    guest = await boot('vsock-pci');
    await starts('echo', `echo-listen ${ECHO_PORT}`);
  }, BOOT_LIMIT_MS);

  it(
    'Debian finds the device by itself, and its driver has no complaint',
    async () => {
      expect(await guest.say('ls /sys/bus/virtio/drivers/vmw_vsock_virtio_transport')).toContain('virtio');
      expect(
        await guest.say('dmesg --level=emerg,alert,crit,err,warn | grep -i -E "vsock|virtio" || true'),
      ).toBe('');
      expect((await host.exec(['stat', '-c', '%a', socket])).stdout).toBe('600\n');
    },
    STEP_LIMIT_MS,
  );

  it(
    'carries 100 MiB each way over 64 connections at once, half of them from the guest',
    async () => {
      const each = (100 * MIB) / 64;
      const answer = await hostDoes<Echo>(`echo ${ECHO_PORT} 32 52 32 ${each}`, {
        ready: () => starts('many', 'echo-connect 52 32'),
      });
      expect(answer).toMatchObject({ connections: 64, intact: 64 });
      expect(await outcome('many')).toBe('0 of 32 failed\n');
    },
    STEP_LIMIT_MS,
  );

  it(
    'refuses connections to ports that nobody listens on, both ways',
    async () => {
      expect(await hostDoes('refused 999')).toMatchObject({ refused: true });
      await starts('refused', 'flood 999');
      expect(await outcome('refused')).toBe('connect: Connection reset by peer\n');
    },
    STEP_LIMIT_MS,
  );

  it(
    'ends one half of a stream for the host while the other one goes on',
    async () => {
      const answer = hostDoes<{ heard: number }>('half 53', {
        ready: () => starts('half', 'send 53 100000'),
      });
      expect(await answer).toEqual({ heard: 100_000 });
      expect(await outcome('half')).toBe('heard 100000');
    },
    STEP_LIMIT_MS,
  );

  it(
    'tells a guest that sends that the program on the host has gone',
    async () => {
      await hostDoes('drop 54', { ready: () => starts('drop', 'flood 54') });
      expect(await outcome('drop')).toMatch(/^write: (Broken pipe|Connection reset by peer)\n$/);
    },
    STEP_LIMIT_MS,
  );

  it(
    'tells the host that a program of the guest was killed',
    async () => {
      const answer = hostDoes<{ ended: boolean }>(`hold ${ECHO_PORT}`, {
        ready: () => guest.say('pkill -9 -n vsock-peer'),
      });
      expect(await answer).toEqual({ ended: true });
    },
    STEP_LIMIT_MS,
  );

  it(
    'makes a guest wait for a reader that stalls, holds little meanwhile, and loses nothing',
    async () => {
      const length = 16 * MIB;
      type Stall = { seen: number; wrong: number; buffered: number; grown: number; others: boolean };
      const answer = await hostDoes<Stall>(`stalled-reader 55 ${ECHO_PORT} ${length} ${vmmOf('vsock-pci')}`, {
        ready: () => starts('stall', `send 55 ${length}`),
      });
      expect(answer).toMatchObject({ seen: length, wrong: 0, others: true });
      expect(answer.buffered).toBeLessThan(MIB);
      expect(answer.grown).toBeLessThan(8 * MIB);
      expect(await outcome('stall')).toBe('');
    },
    STEP_LIMIT_MS,
  );

  it(
    'makes the host wait for a guest that stalls, holds little meanwhile, and loses nothing',
    async () => {
      const length = 16 * MIB;
      await guest.say('rm -f /root/gate');
      type Stall = { sent: number; stalledAt?: { at: number; taken: number; grown: number } };
      const answer = await hostDoes<Stall>(`stalled-guest 56 ${length} ${vmmOf('vsock-pci')}`, {
        ready: () => starts('sink', 'sink 56 /root/gate'),
        stalled: () => guest.say('touch /root/gate'),
      });
      expect(answer.sent).toBe(length);
      expect(answer.stalledAt?.taken).toBeLessThan(4 * MIB);
      expect(answer.stalledAt?.grown).toBeLessThan(8 * MIB);
      expect(await outcome('sink')).toBe(`${length} bytes, 0 wrong\n`);
    },
    STEP_LIMIT_MS,
  );

  it(
    'ends connections where the VMM is killed',
    async () => {
      const answer = hostDoes<{ ended: boolean }>(`hold ${ECHO_PORT}`, { ready: () => guest.kill() });
      expect(await answer).toEqual({ ended: true });
      expect((await host.exec(['test', '-S', socket])).code).toBe(0);
    },
    STEP_LIMIT_MS,
  );
});

describe('over virtio-mmio, in the place of the one that was killed', () => {
  beforeAll(async () => {
    guest = await boot('vsock-mmio', '--transport', 'mmio');
    await starts('echo', `echo-listen ${ECHO_PORT}`);
  }, BOOT_LIMIT_MS);

  it(
    'carries data both ways over connections from both sides',
    async () => {
      const answer = await hostDoes<Echo>(`echo ${ECHO_PORT} 4 52 4 ${MIB}`, {
        ready: () => starts('many', 'echo-connect 52 4'),
      });
      expect(answer).toMatchObject({ connections: 8, intact: 8 });
      expect(await outcome('many')).toBe('0 of 4 failed\n');
    },
    STEP_LIMIT_MS,
  );

  it(
    'ends connections where the guest powers off, and leaves no socket behind',
    async () => {
      const answer = hostDoes<{ ended: boolean }>(`hold ${ECHO_PORT}`, {
        ready: async () => {
          expect((await guest.powerOff()).code).toBe(0);
        },
      });
      expect(await answer).toEqual({ ended: true });
      expect((await host.exec(['test', '-e', socket])).code).toBe(1);
    },
    STEP_LIMIT_MS,
  );
});
