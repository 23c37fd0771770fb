/**
 * A stock Debian with systemd, under load that verifies itself (fio on its disk, a TCP stream, a chain of hashes,
 * timers), is saved and goes on, goes on from what was saved, and is cloned; and what its devices do is looked at in the
 * same way when it has booted and when it has been restored. `TSVM_DEBIAN_ROUNDS` rounds for each machine.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildDebian } from '../../images/debian/system.ts';
import { whereItIs } from '../guest/stuck.ts';
import { attach, LEAVE, openHost } from '../guest/support.ts';
import { HostTsvm } from '../guest/tsvm.ts';
import type { GuestHost } from '../lab/host.ts';
import { unpackAhead } from '../support/unpack-ahead.ts';

const ROUNDS = Number(process.env['TSVM_DEBIAN_ROUNDS'] ?? 50);
const STEP_LIMIT_MS = 900_000;
const ROUND_LIMIT_MS = 600_000;
const PROGRAMS = join(import.meta.dirname, '../guest/programs');
const GUEST_PORT = 5000;
const TRANSFER = 4 * 2 ** 20;
const LOAD_LOG = '/run/load.log';
const FIO_LOG = '/run/fio.log';
/** What the load is to have done between two events. */
const STEPS = ['chain', 'stream', 'clock'] as const;
const FIO = [
  ...[
    '--name=verified',
    '--filename=/root/fio.data',
    '--size=32M',
    '--rw=randwrite',
    '--bs=16k',
    '--direct=1',
  ],
  ...['--ioengine=psync', '--verify=crc32c', '--verify_fatal=1', '--verify_backlog=64', '--loops=1000000'],
  ...['--rate_iops=100', '--status-interval=1'],
].join(' ');
/** What a healthy guest says nothing of. */
const WARNINGS =
  /\bBUG\b|lockup|detected stall|blocked for more than|I\/O error|unstable|Call Trace|EXT4-fs error|virtio\S* .*(fail|error)/;

let host: GuestHost;
let base: string;

beforeAll(async () => {
  host = await openHost();
  await unpackAhead((await buildDebian()).kernel);
  base = await host.debianDisk('snapshots-base.qcow2', 'compressed');
  await host.exec(['chmod', '444', base]);
}, STEP_LIMIT_MS);

afterAll(async () => {
  await host.exec(`rm -rf '${base}'`);
  await host.close();
});

describe.each([
  { transport: 'pci', cpus: 1, port: 15_001 },
  { transport: 'mmio', cpus: 4, port: 15_002 },
])('over $transport, with vCPUs: $cpus', ({ transport, cpus, port }) => {
  const name = `debian-${transport}`;
  let tsvm: HostTsvm;
  const inGuest = (line: string, vm = name): Promise<string> => tsvm.inGuest(vm, line);

  beforeAll(async () => {
    const home = join(host.scratch, name);
    await host.exec(['mkdir', '-p', join(home, 'share')]);
    tsvm = new HostTsvm(host, home, STEP_LIMIT_MS);
    await tsvm.shell(`
      t create '${base}' ${name} --format qcow2 --mem 768M --cpus ${cpus} --net user -p ${port}:${GUEST_PORT} \\
        --share '${home}/share:/mnt/share'
      sed -i 's/^\\(; *\\)\\?transport *=.*/transport = ${transport}/' vms/${name}/vm.ini
      grep -q '^transport = ${transport}$' vms/${name}/vm.ini`);
    // Its vCPUs are busy all the time: what looks at it would wait for each of them.
    await tsvm.meekly(name, 'start', name);
    await tsvm.ok('wait', '--for', 'agent', '--timeout', '600', name);
    expect((await tsvm.run('exec', name, '--', 'systemctl', 'is-system-running', '--wait')).stdout).toBe(
      'running\n',
    );
    for (const program of ['snapshot-load.py', 'net-load.py']) {
      const text = readFileSync(join(PROGRAMS, program)).toString('base64');
      await inGuest(`echo ${text} | base64 -d > /root/${program}`);
    }
  }, 2 * STEP_LIMIT_MS);

  afterAll(async () => {
    await tsvm.run('delete', '--force', name);
    await host.exec(`rm -rf '${tsvm.home}'`);
  });

  /** Each device, as the guest and its host see it. */
  function deviceChecks(state: 'booted' | 'restored'): void {
    describe(`its devices, ${state}`, () => {
      it(
        'disk: keeps what is written, and says what it has not',
        async () => {
          await inGuest(`
            set -e; cd /root; head -c 16M /dev/urandom > ${state}; sync; sum=$(md5sum < ${state})
            echo 3 > /proc/sys/vm/drop_caches; [ "$(md5sum < ${state})" = "$sum" ]
            dd if=${state} of=direct bs=64k iflag=direct oflag=direct,dsync 2> /dev/null
            [ "$(md5sum < direct)" = "$sum" ]; rm direct; fstrim /`);
        },
        STEP_LIMIT_MS,
      );

      it(
        'network: an address by DHCP, and a forwarded port',
        async () => {
          await inGuest(`
            systemctl is-active --quiet net-load || systemd-run --quiet --unit=net-load python3 /root/net-load.py serve ${GUEST_PORT}
            for i in $(seq 120); do [ -z "$(ss -Hltn 'sport = :${GUEST_PORT}')" ] || break; sleep 1; done
            for i in $(seq 120); do ip -4 -br addr show up | grep -q " 10.0.2.15/24" && exit; sleep 1; done; ip addr; exit 1`);
          for (const verb of ['put', 'get']) {
            const { stdout, stderr } = await host.exec(
              ['node', join(PROGRAMS, 'net-load.mjs'), verb, '127.0.0.1', String(port), String(TRANSFER)],
              { timeoutMs: STEP_LIMIT_MS },
            );
            expect(`${stdout}${stderr}`).toMatch(/^good/);
          }
        },
        STEP_LIMIT_MS,
      );

      it(
        'shared folder: each sees what the other does',
        async () => {
          await inGuest(`
            for i in $(seq 60); do findmnt -n /mnt/share > /dev/null && break; sleep 1; done
            cd /mnt/share && mkdir ${state} && echo from the guest > ${state}/one && mv ${state}/one ${state}/two`);
          expect(await tsvm.shell(`cat share/${state}/two; echo from the host > share/${state}/three`)).toBe(
            'from the guest\n',
          );
          expect(await inGuest(`cat /mnt/share/${state}/three; rm -r /mnt/share/${state}`)).toBe(
            'from the host\n',
          );
        },
        STEP_LIMIT_MS,
      );

      it(
        'random numbers and memory: a source of its own, and a balloon',
        async () => {
          expect(await inGuest('head -c 4096 /dev/hwrng | wc -c')).toBe('4096\n');
          const free = async (): Promise<number> =>
            Number((await inGuest('awk \'$1 == "MemFree:" { print $2 }\' /proc/meminfo')).trim()) * 1024;
          const before = await free();
          await tsvm.ok('set', '--mem', '640M', name);
          await expect.poll(free, { timeout: 120_000, interval: 2000 }).toBeLessThan(before - 64 * 2 ** 20);
          await tsvm.ok('set', '--mem', '768M', name);
          await expect
            .poll(free, { timeout: 120_000, interval: 2000 })
            .toBeGreaterThan(before - 64 * 2 ** 20);
        },
        STEP_LIMIT_MS,
      );

      it(
        'console: what is typed arrives',
        async () => {
          const shown = await attach(host, tsvm.home, name, [
            { after: '', send: '\r' },
            { after: 'login:', send: LEAVE },
          ]);
          expect(shown).toContain('login:');
        },
        STEP_LIMIT_MS,
      );

      it(
        'clock: that of the host',
        async () => {
          const [before, inside, after] = (await tsvm.shell(`date +%s; t exec ${name} -- date +%s; date +%s`))
            .trim()
            .split('\n')
            .map(Number);
          expect(inside).toBeGreaterThanOrEqual(before! - 2);
          expect(inside).toBeLessThanOrEqual(after! + 2);
        },
        STEP_LIMIT_MS,
      );
    });
  }

  const look = async (vm: string): Promise<Record<string, number>> => {
    const said = await inGuest(
      `cat ${LOAD_LOG} | grep -E '^error' | head -5 | sed 's/^/E /'
       for step in ${STEPS.join(' ')}; do grep "^$step " ${LOAD_LOG} | tail -1; done
       echo "fio $(grep -c IOPS ${FIO_LOG})"; systemctl is-active fio-load; dmesg -l emerg,alert,crit,err,warn | sed 's/^/D /'`,
      vm,
    );
    const lines = said.trim().split('\n');
    expect(lines.filter((line) => line.startsWith('E '))).toEqual([]);
    expect(lines.filter((line) => line.startsWith('D ') && WARNINGS.test(line))).toEqual([]);
    expect(lines).toContain('active');
    return Object.fromEntries(
      [...STEPS, 'fio'].map((step) => [
        step,
        Number(lines.find((line) => line.startsWith(`${step} `))?.split(' ')[1] ?? 0),
      ]),
    );
  };

  /** All that the guest does has gone on. */
  async function goesOn(what: string, vm = name): Promise<void> {
    try {
      await comesOn(what, vm);
    } catch (error) {
      // Whoever looks for the reason has nothing else of it.
      const log = await tsvm.run('logs', vm).then(
        ({ stdout }) => stdout.slice(-2000),
        (reason: unknown) => String(reason),
      );
      throw new Error(`${what}; it is at:\n${await whereItIs(tsvm, vm)}\nits console:\n${log}`, {
        cause: error,
      });
    }
  }

  async function comesOn(what: string, vm: string): Promise<void> {
    const from = await look(vm);
    for (const end = performance.now() + ROUND_LIMIT_MS; performance.now() < end; await sleep(500)) {
      const now = await look(vm);
      if (Object.keys(from).every((step) => now[step]! > from[step]!)) return;
    }
    throw new Error(`${what}: ${JSON.stringify(from)} became ${JSON.stringify(await look(vm))}`);
  }

  deviceChecks('booted');

  it(
    `goes on under load, from where it was saved and as a copy; rounds: ${ROUNDS}`,
    async () => {
      // What the kernel says of the processor at its boot is another matter.
      await inGuest(`
        dmesg -C
        systemd-run --quiet --unit=load -p Nice=10 python3 /root/snapshot-load.py ${LOAD_LOG}
        systemd-run --quiet --unit=fio-load -p Nice=10 -p StandardOutput=append:${FIO_LOG} \\
          -p StandardError=append:${FIO_LOG} fio ${FIO}
        for i in $(seq 100); do grep -q IOPS ${FIO_LOG} && grep -q clock ${LOAD_LOG} && exit; sleep 1; done; cat ${FIO_LOG}; exit 1`);
      const stops: number[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        const took: string[] = [];
        const step = async <T>(what: string, work: Promise<T>): Promise<T> => {
          const begun = performance.now();
          const result = await work;
          took.push(`${what} ${Math.round((performance.now() - begun) / 1000)}`);
          return result;
        };
        const live = round % 2 === 0 ? ['--live'] : [];
        const taken = JSON.parse(
          await step('snapshot', tsvm.ok('snapshot', 'create', '--json', ...live, name, 'round')),
        ) as { stopMs: number };
        stops.push(Math.round(taken.stopMs));
        await step('goes on', goesOn(`round ${round}, after the snapshot`));
        await step('restore', tsvm.meekly(name, 'restore', '--force', name, 'round'));
        await step('goes on', goesOn(`round ${round}, restored`));
        // Not always: two Debians share one processor. Time goes on for one that is paused, and so it runs.
        if (round % 5 === 0) {
          await step('clone', tsvm.meekly('copy', 'clone', `${name}@round`, 'copy', '--start'));
          // Two Debians under load, and one emulated processor: it takes its time to know who it is.
          await step('agent', tsvm.ok('wait', '--for', 'agent', '--timeout', '600', 'copy'));
          await step('goes on', goesOn(`round ${round}, the copy`, 'copy'));
          const [host_, machine] = (
            await inGuest('cat /proc/sys/kernel/hostname /etc/machine-id', 'copy')
          ).split('\n');
          expect(host_).toBe('copy');
          await tsvm.ok('delete', '--force', 'copy');
          expect(await inGuest('cat /etc/machine-id')).not.toBe(`${machine}\n`);
        }
        await step('removal', tsvm.ok('snapshot', 'rm', name, 'round'));
        console.log(`${name}, round ${round}, in seconds: ${took.join(', ')}`);
      }
      console.log(`${name}: stood still for ${stops.join(', ')} ms`);
      // One that is told to end says that it has failed; what has is in its log.
      await inGuest(
        'systemctl stop load; systemctl kill -s INT fio-load; sleep 5; systemctl stop fio-load; systemctl reset-failed; true',
      );
      expect(await inGuest(`grep -iE 'verify: bad|err= *[1-9]' ${FIO_LOG} || true`)).toBe('');
    },
    ROUNDS * ROUND_LIMIT_MS,
  );

  it(
    'is suspended, and goes on where it was',
    async () => {
      await tsvm.ok('suspend', name);
      await tsvm.meekly(name, 'start', name);
      expect(await tsvm.ok('logs', '--process', name)).toMatch(/goes on from where it was/);
    },
    STEP_LIMIT_MS,
  );

  deviceChecks('restored');

  it(
    'ends by its power button',
    async () => {
      expect(await inGuest('systemctl --failed --no-legend')).toBe('');
      await tsvm.ok('stop', '--timeout', '300', name);
      expect(await tsvm.ok('logs', '--process', name)).toMatch(/ended: poweroff/);
    },
    STEP_LIMIT_MS,
  );
});
