import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { bundleScript } from '../support/bundle-script.ts';

// Taps are made in a network namespace of their own, where this user may have one.

const run = promisify(execFile);

/** What each step says, in a fresh namespace. */
const PROGRAM = `
import { execFileSync } from 'node:child_process';
import { TapBackend } from './src/net/tap.ts';
import { interfaceExists } from './src/kvm/tap.ts';
const ip = (...args) => execFileSync('ip', args, { encoding: 'utf8' });
const lines = [];
const log = (line) => lines.push(line);
const failure = (make) => {
  try {
    make();
    return 'none';
  } catch (error) {
    return error.code + ': ' + error.message + '; ' + error.hint;
  }
};
const said = {};
ip('link', 'set', 'lo', 'up');
ip('link', 'add', 'br0', 'type', 'bridge');
const made = new TapBackend({ bridge: 'br0', mtu: 9000, queues: 2, log });
said.made = [made.tap, made.mtu, made.ports.length, ip('-o', 'link', 'show', 'master', 'br0').includes(made.tap + ':')];
said.up = ip('-o', 'link', 'show', made.tap).includes('UP');
made.setCarrier(false);
said.noCarrier = ip('-o', 'link', 'show', made.tap).includes('NO-CARRIER');
made.setCarrier(true);
made.setQueues(2);
made.setOffloads(15);
said.noBridge = failure(() => new TapBackend({ bridge: 'br9', log }));
said.noTap = failure(() => new TapBackend({ tap: 'br0', log }));
const links = [];
made.onLink = (up) => links.push(up);
ip('link', 'del', made.tap);
made.setOffloads(0);
made.setQueues(1);
said.gone = [made.link, links.length];
for (let i = 0; i < 50 && !made.link; i++) await new Promise((resolve) => setTimeout(resolve, 100));
said.back = [made.link, interfaceExists(made.tap)];
said.lines = lines;
await made.close();
said.closed = interfaceExists(made.tap);
console.log(JSON.stringify(said));
`;

type Said = {
  readonly made: readonly [string, number, number, boolean];
  readonly up: boolean;
  readonly noCarrier: boolean;
  readonly noBridge: string;
  readonly noTap: string;
  readonly gone: readonly [boolean, number];
  readonly back: readonly [boolean, boolean];
  readonly lines: readonly string[];
  readonly closed: boolean;
};

let reason: string | undefined;
let said: Said;
beforeAll(async () => {
  const script = await bundleScript(PROGRAM);
  try {
    await run('unshare', ['-n', 'sh', '-c', 'test -w /dev/net/tun && ip link add x type bridge']);
  } catch (error) {
    reason = `no taps and bridges in a network namespace here: ${String(error).split('\n')[0]}`;
    return;
  }
  said = JSON.parse((await run('unshare', ['-n', process.execPath, script])).stdout) as Said;
}, 60_000);

describe('a tap', () => {
  test('is made with its queues, as a port of the bridge, and goes when it is closed', (context) => {
    context.skip(reason !== undefined, reason);
    expect(said.made).toEqual(['tsvm0', 9000, 2, true]);
    expect(said.up).toBe(true);
    expect(said.closed).toBe(false);
  });

  test('shows the host the cable that was pulled out', (context) => {
    context.skip(reason !== undefined, reason);
    expect(said.noCarrier).toBe(true);
  });

  test('says what is wrong and what to do', (context) => {
    context.skip(reason !== undefined, reason);
    expect(said.noBridge).toBe(
      'ENODEV: there is no bridge br9; make it: sudo ip link add br9 type bridge && sudo ip link set br9 up',
    );
    expect(said.noTap).toMatch(
      /^EINVAL: cannot use tap br0: there is an interface of this name, and it is no tap/,
    );
  });

  test('that somebody takes away is a link that is down, and comes back', (context) => {
    context.skip(reason !== undefined, reason);
    expect(said.gone).toEqual([false, 1]);
    expect(said.back).toEqual([true, true]);
    expect(said.lines).toEqual([
      'tap tsvm0: the link is down: the interface is gone',
      'tap tsvm0: the link is up again',
    ]);
  });
});
