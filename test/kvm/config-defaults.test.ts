/** The user's defaults for new VMs, by the command line. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { VmSettings } from '../../src/index.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;
let disk: string;

beforeEach(async () => {
  home = new VmHome();
  [disk = ''] = await home.echoGuest();
  mkdirSync(home.env.TSVM_HOME);
});
afterEach(() => home.remove());

const configure = (...lines: string[]): void =>
  writeFileSync(join(home.env.TSVM_HOME, 'config.ini'), ['[defaults]', ...lines, ''].join('\n'));

async function settingsOf(name: string): Promise<VmSettings> {
  const { settings } = JSON.parse(await home.ok('info', '--json', name)) as { settings: VmSettings };
  return settings;
}

test('a new VM has what config.ini says, where no option says another thing', async () => {
  configure('memory = 96M', 'cpus = 2', 'card.0 = none');
  await home.ok('create', disk, 'plain');
  expect(await settingsOf('plain')).toMatchObject({
    vm: { memory: 96 * 2 ** 20, cpus: 2 },
    network: { cards: ['none'] },
  });
  await home.ok('create', disk, 'other', '--mem', '64M', '--net', 'user');
  expect(await settingsOf('other')).toMatchObject({
    vm: { memory: 64 * 2 ** 20, cpus: 2 },
    network: { cards: ['user'] },
  });
});

test('a config.ini that cannot be is told with its line, and no VM is made', async () => {
  configure('cpus = 2', 'memory = much');
  for (const args of [
    ['create', disk, 'web'],
    ['run', disk, '--', 'true'],
  ]) {
    const { code, stderr } = await home.tsvm(...args);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/config\.ini:3: 'memory' is /)]);
  }
  expect(await home.ok('list', '-q')).toBe('');
});
