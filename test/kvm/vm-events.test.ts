/** What `tsvm events` tells of a VM's life. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Vm } from '../../src/index.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

test("a VM's life is told, as it goes on and afterwards", async () => {
  const following = home.begin(['events', '--follow', '--json', 'web']);
  let heard = '';
  following.stdout.on('data', (data: Buffer) => (heard += data.toString()));
  await home.create('web');
  await home.create('other');
  await home.ok('start', 'web');
  await home.ok('set', '--mem', '64M', 'web');
  await home.ok('stop', 'web');
  await home.ok('start', 'web');
  const { pid } = JSON.parse(await home.ok('info', '--json', 'web')) as { pid: number };
  process.kill(pid, 'SIGKILL');
  await expect.poll(() => home.state('web')).toBe('crashed');
  await home.ok('start', 'web');
  await home.ok('kill', 'web');
  await home.ok('rename', 'web', 'www');
  await home.ok('delete', 'www');

  const told = async (...args: readonly string[]): Promise<string[]> =>
    (await home.ok('events', ...args))
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => line.replace(/^\S+ /, ''));
  const life = [
    'web created: disk.raw',
    'web started',
    'web set',
    'web stopped: the guest powered itself off',
    'web started',
    'web crashed: its process was killed',
    'web started',
    'web killed',
    'web renamed: www',
  ];
  expect(await told('web')).toEqual(life);
  expect(await told()).toEqual([life[0], 'other created: disk.raw', ...life.slice(1), 'www deleted']);
  expect(await told('--since', '1h', 'www')).toEqual(['www deleted']);
  expect(await told('--since', '2100-01-01')).toEqual([]);
  expect((await home.tsvm('events', '--since', 'yesterday')).code).toBe(2);

  await expect.poll(() => heard.split('\n').length).toBe(life.length + 1);
  following.kill('SIGINT');
  expect((await following).exitCode).toBe(130);
  const events = heard
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { name: string; event: string });
  expect(events.map(({ name, event }) => `${name} ${event}`)).toEqual(
    life.map((line) => line.replace(/:.*/, '')),
  );

  const kinds: string[] = [];
  for await (const { event } of Vm.events({ home: home.env.TSVM_HOME, name: 'www' })) kinds.push(event);
  expect(kinds).toEqual(['deleted']);
}, 120_000);
