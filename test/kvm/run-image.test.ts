/** `tsvm run IMAGE`: whatever becomes of it, nothing is left of its VM. The guest here has no agent. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { VmHome } from '../support/vm-home.ts';

/** as the VM's end is told, before the command has run */
const EXIT_CRASHED = 3;

let home: VmHome;
let guest: string[];

beforeEach(async () => {
  home = new VmHome();
  guest = await home.echoGuest();
});
afterEach(() => home.remove());

/** All that the store has, also what no command shows. */
function folders(): string[] {
  const vms = join(home.env.TSVM_HOME, 'vms');
  return existsSync(vms) ? readdirSync(vms) : [];
}

/** Begins a run that waits for the agent, and resolves when its VM runs. */
async function waiting(...options: string[]) {
  const run = home.begin(['run', '--name', 'once', ...options, ...guest, '--', 'true']);
  await expect.poll(() => home.state('once'), { timeout: 20_000 }).toBe('running');
  return { run };
}

async function expectNothingLeft(): Promise<void> {
  await expect.poll(() => home.processes(), { timeout: 20_000 }).toEqual([]);
  await expect.poll(folders, { timeout: 20_000 }).toEqual([]);
}

describe.each([
  // What it boots is for later ones, too.
  { where: 'its own process', cold: [], isHosted: false },
  { where: 'the process of the command', cold: ['--cold'], isHosted: true },
])('in $where', ({ cold, isHosted }) => {
  test('a guest that does not come up in time is told with its console, and is gone', async () => {
    const { code, stdout, stderr } = await home.tsvm('run', ...cold, '--wait', '2', ...guest, '--', 'true');
    expect([code, stdout]).toEqual([124, '']);
    expect(stderr).toMatch(/^tsvm: waiting for the guest agent of 'run-[0-9a-f]{8}' …$/m);
    expect(stderr).toMatch(/has not come to 'agent', not within 2 s; its console's last lines:\necho: ready/);
    await expectNothingLeft();
  });

  test('--timeout ends it', async () => {
    const { code, stderr } = await home.tsvm('run', ...cold, '--timeout', '1.5', ...guest, '--', 'true');
    expect(code).toBe(124);
    expect(stderr).toContain('tsvm: the time of --timeout, 1.5 s, is over\n');
    await expectNothingLeft();
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s ends it with status %i', async (signal, status) => {
    const { run } = await waiting(...cold);
    run.kill(signal);
    expect((await run).exitCode).toBe(status);
    expect(home.processes()).toEqual([]);
    expect(folders()).toEqual([]);
  });

  test('the VM ends with a command that is killed, and what is left of it goes with the next one', async () => {
    const { run } = await waiting(...cold);
    run.kill('SIGKILL');
    await run;
    await expect.poll(() => home.processes(), { timeout: 20_000 }).toEqual([]);
    expect(await home.ok('list', '-q')).toBe('');
    expect(folders()).toEqual([]);
  });

  test('other commands find it, and its jail', async () => {
    const { run } = await waiting(...cold);
    const { pid, jail } = JSON.parse(await home.ok('info', '--json', 'once')) as {
      pid: number;
      jail: { seccomp: boolean };
    };
    expect([pid === run.pid, jail.seccomp]).toEqual([isHosted, true]);
    await home.ok('send', '--enter', 'once', 'hello');
    await home.ok('wait', '--for', '/hello/', 'once');
    await home.ok('stop', '--force', 'once');
    const { exitCode, stderr } = await run;
    expect([exitCode, stderr]).toEqual([
      EXIT_CRASHED,
      expect.stringContaining("has not come to 'agent', and it does not run"),
    ]);
    await expectNothingLeft();
  });

  test('a VM that cannot be started says why, and is gone', async () => {
    const [disk = '', ...options] = guest;
    const args = ['run', ...cold, disk, ...options, '--kernel', '/nowhere', '--', 'true'];
    const { code, stderr } = await home.tsvm(...args);
    expect([code, stderr]).toEqual([1, expect.stringContaining('/nowhere')]);
    await expectNothingLeft();
  });
});

test('where its process is killed too, even its name is free for the next command', async () => {
  const { run } = await waiting();
  const { pid } = JSON.parse(await home.ok('info', '--json', 'once')) as { pid: number };
  process.kill(pid, 'SIGSTOP');
  run.kill('SIGKILL');
  await run;
  process.kill(pid, 'SIGKILL');
  await expect.poll(() => home.processes(), { timeout: 20_000 }).toEqual([]);
  expect(folders()).toEqual(['once']);
  // Its name is free at once.
  await home.create('once');
  expect(await home.state('once')).toBe('stopped');
});

test('--keep leaves the VM, switched off', async () => {
  const { run } = await waiting('--keep', '--wait', '1');
  expect((await run).exitCode).toBe(124);
  expect(await home.state('once')).toBe('stopped');
  await home.ok('start', 'once');
  await home.ok('delete', '--force', 'once');
  await expectNothingLeft();
});

test.each([
  [['--port', 'a=b'], '--port does not go together with an IMAGE'],
  [['--json'], '--json is about --timings'],
  [['--stats'], '--stats does not go together with an IMAGE'],
  [['--no-reboot'], '--no-reboot does not go together with an IMAGE'],
  [['--disk', 'other.raw'], '--disk, with an IMAGE, is the size of its disk'],
])('%j makes no sense with an image', async (options, why) => {
  const { code, stderr } = await home.tsvm('run', ...guest, ...options, '--', 'true');
  expect([code, stderr]).toEqual([2, expect.stringContaining(why)]);
  await expectNothingLeft();
});

test('options of images make no sense with a kernel alone', async () => {
  const { code, stderr } = await home.tsvm('run', '--kernel', 'vmlinuz', '--cloud-init', 'file');
  expect([code, stderr]).toEqual([2, expect.stringContaining('--cloud-init needs an IMAGE')]);
});
