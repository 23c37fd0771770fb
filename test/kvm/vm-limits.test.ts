/** CPU and memory limits of a VM's process by cgroup v2, where this host lets a user have them. */
import { existsSync, mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

/** Why limits cannot be had here; undefined where they can. */
function obstacle(): string | undefined {
  const root = /^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 /m.exec(
    readFileSync('/proc/self/mountinfo', 'utf8'),
  )?.[1];
  if (root === undefined) return 'cgroup2 is not mounted';
  const own = join(root, /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/');
  const controllers = readFileSync(join(own, 'cgroup.controllers'), 'utf8').trim().split(' ');
  if (!controllers.includes('cpu') || !controllers.includes('memory'))
    return 'cgroup v2 has not the controllers cpu and memory, which v1 may have';
  const probe = join(own, `tsvm-probe-${process.pid}`);
  try {
    mkdirSync(probe);
    rmdirSync(probe);
    return undefined;
  } catch {
    return `${own} is not delegated to this user`;
  }
}

const why = obstacle();
if (why !== undefined) process.stderr.write(`skipped: limits that hold: ${why}\n`);

/** Of the settings of a VM. */
async function limitsOf(name: string): Promise<object> {
  const { settings } = JSON.parse(await home.ok('info', '--json', name)) as {
    settings: { vm: Record<string, unknown> };
  };
  return Object.fromEntries(Object.entries(settings.vm).filter(([key]) => key.endsWith('Limit')));
}

const vmFolder = (name: string): string => join(home.env.TSVM_HOME, 'vms', name);

test.skipIf(why !== undefined)('limits hold for the VM and go with it', async () => {
  await home.create('web', '--cpu-limit', '0.5', '--memory-limit', '512M');
  await home.ok('start', 'web');
  const { pid } = JSON.parse(await home.ok('info', '--json', 'web')) as { pid: number };
  const { group } = JSON.parse(readFileSync(join(vmFolder('web'), 'process.json'), 'utf8')) as {
    group: string;
  };
  expect(readFileSync(`/proc/${pid}/cgroup`, 'utf8')).toContain(`/tsvm-web-${pid}\n`);
  expect(readFileSync(join(group, 'cpu.max'), 'utf8')).toBe('50000 100000\n');
  expect(readFileSync(join(group, 'memory.max'), 'utf8')).toBe(`${512 * 2 ** 20}\n`);
  await home.ok('stop', 'web');
  expect(existsSync(group)).toBe(false);
});

test.skipIf(why !== undefined)('limits of a VM that runs change at once, and are lifted', async () => {
  await home.create('web', '--cpu-limit', '0.5');
  await home.ok('start', 'web');
  const { group } = JSON.parse(readFileSync(join(vmFolder('web'), 'process.json'), 'utf8')) as {
    group: string;
  };
  expect(await home.tsvm('set', '--cpu-limit', '0.25', 'web')).toMatchObject({ code: 0, stderr: '' });
  expect(readFileSync(join(group, 'cpu.max'), 'utf8')).toBe('25000 100000\n');
  expect(await home.tsvm('set', '--cpu-limit', 'none', 'web')).toMatchObject({ code: 0, stderr: '' });
  expect(readFileSync(join(group, 'cpu.max'), 'utf8')).toBe('max 100000\n');
});

test('a VM that runs without a limit has one after a restart', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  const { code, stderr } = await home.tsvm('set', '--cpu-limit', '1.5', '--cpus', '2', 'web');
  expect([code, stderr]).toEqual([0, "tsvm: 'web' has the new CPUs and limits after `tsvm restart web`\n"]);
  expect(await limitsOf('web')).toEqual({ cpuLimit: 1.5 });
});

test('limits of a VM that is off are set, changed and lifted', async () => {
  await home.create('web', '--memory-limit', '1G');
  await home.ok('set', '--cpu-limit', '2', 'web');
  expect(await limitsOf('web')).toEqual({ cpuLimit: 2, memoryLimit: 2 ** 30 });
  await home.ok('set', '--cpu-limit', '0.5', '--memory-limit', 'none', 'web');
  expect(await limitsOf('web')).toEqual({ cpuLimit: 0.5 });
  await expect(home.ok('set', '--memory-limit', '1M', 'web')).rejects.toThrow(/at least 64M/);
  expect((await home.tsvm('set', '--cpu-limit', 'all', 'web')).code).toBe(2);
  expect(await limitsOf('web')).toEqual({ cpuLimit: 0.5 });
});

test('a throw-away VM has limits too', async () => {
  const words = ['--wait', '1', '--memory-limit', '512M', ...(await home.echoGuest()), '--', 'true'];
  const { code, stderr } = await home.tsvm('run', ...words);
  // The guest has no agent, so a VM with limits that hold comes to the end of that time.
  if (why === undefined) expect([code, stderr]).toEqual([124, expect.stringContaining('not within 1 s')]);
  else expect([code, stderr]).toEqual([1, expect.stringContaining('limits of CPU and memory cannot be had')]);
  expect(await home.ok('list', '-q')).toBe('');
});

test.skipIf(why === undefined)(
  'a limit that cannot be had is an error of the start, in one line',
  async () => {
    await home.create('web', '--memory-limit', '512M');
    const { code, stderr } = await home.tsvm('start', 'web');
    expect([code, stderr.trimEnd().split('\n')]).toEqual([
      1,
      [
        expect.stringMatching(
          /^tsvm: the VM 'web' cannot be started: limits of CPU and memory cannot be had: /,
        ),
        expect.stringMatching(/^hint: .*systemd-run --user --scope/),
      ],
    ]);
    expect(home.processes()).toEqual([]);
  },
);

test('limits are kept in vm.ini, and nonsense is refused', async () => {
  await home.create('web', '--cpu-limit', '1.5', '--memory-limit', '1G');
  const { settings } = JSON.parse(await home.ok('info', '--json', 'web')) as { settings: { vm: object } };
  expect(settings.vm).toMatchObject({ cpuLimit: 1.5, memoryLimit: 2 ** 30 });
  for (const flags of [
    ['--cpu-limit', '0'],
    ['--cpu-limit', '-1'],
    ['--memory-limit', 'all'],
  ])
    expect((await home.tsvm('create', './no.raw', 'db', ...flags)).code).toBe(2);
  await expect(home.create('db', '--memory-limit', '1M')).rejects.toThrow(/memory-limit.*at least 64M/);
  expect(await home.ok('list', '-q')).toBe('web\n');
});
