import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GuestHost } from '../lab/host.ts';
import { DebianGuest } from './debian-guest.ts';
import { openHost, TSVM } from './support.ts';

const BOOT_LIMIT_MS = 900_000;
const STEP_LIMIT_MS = 300_000;
const NAMES = ['one', 'two'] as const;

let host: GuestHost;
let base: string;

const overlay = (name: string): string => join(host.scratch, `overlay-${name}.qcow2`);

async function disk(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await host.exec(['node', TSVM, 'disk', ...args], {
    timeoutMs: STEP_LIMIT_MS,
  });
  if (code !== 0) throw new Error(`tsvm disk ${args.join(' ')}: status ${code}: ${stdout}${stderr}`);
  return stdout;
}

const sumOf = async (path: string): Promise<string> =>
  (await host.exec(['md5sum', path], { timeoutMs: STEP_LIMIT_MS })).stdout.slice(0, 32);

beforeAll(async () => {
  host = await openHost();
  base = await host.debianDisk('overlay-base.qcow2', 'compressed');
  await host.exec(['chmod', '444', base]);
}, BOOT_LIMIT_MS);

afterAll(async () => {
  await host.exec(`rm -f ${host.scratch}/overlay-*`);
  await host.close();
});

describe('two Debians at once, from overlays on one compressed base', () => {
  const guests: DebianGuest[] = [];
  let sum: string;

  beforeAll(async () => {
    sum = await sumOf(base);
    for (const name of NAMES) {
      await disk(
        'create',
        overlay(name),
        '--format',
        'qcow2',
        '--backing',
        'overlay-base.qcow2',
        '--backing-format',
        'qcow2',
      );
    }
    for (const name of NAMES) {
      guests.push(
        await DebianGuest.boot(host, { disk: `${overlay(name)},format=qcow2`, name: `overlay-${name}` }),
      );
    }
  }, BOOT_LIMIT_MS);

  it(
    'boot with no failed unit and no warning of a device',
    async () => {
      for (const guest of guests) {
        await guest.agentReady();
        await guest.expectHealthy();
      }
    },
    BOOT_LIMIT_MS,
  );

  it(
    'keep what they write to themselves',
    async () => {
      for (const [i, guest] of guests.entries()) {
        await guest.say(`head -c 4M /dev/urandom > /root/data && echo ${NAMES[i]!} > /root/name && sync`);
      }
      for (const [i, guest] of guests.entries()) {
        expect(await guest.say('cat /root/name')).toBe(`${NAMES[i]!}\n`);
      }
      const [first, second] = await Promise.all(guests.map((guest) => guest.say('md5sum /root/data')));
      expect(first).not.toBe(second);
      for (const guest of guests) expect((await guest.powerOff()).code).toBe(0);
    },
    STEP_LIMIT_MS,
  );

  it(
    'leave sound overlays and the base as it was',
    async () => {
      for (const name of NAMES) expect(await disk('check', overlay(name))).toContain('nothing is wrong');
      expect(await sumOf(base)).toBe(sum);
    },
    STEP_LIMIT_MS,
  );
});
