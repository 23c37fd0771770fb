/** What a VM's console shows, by the library and the command line. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Vm } from '../../src/index.ts';
import { VmScreen } from '../../src/manager/vms/screen.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeAll(async () => {
  home = new VmHome();
  await home.create('web');
  await home.ok('start', 'web');
  await home.ok('wait', '--for', '/echo: ready/', '--timeout', '60', 'web');
}, 120_000);
afterAll(() => home.remove());

test('the screen of a VM is printed and drawn, also after its end', async () => {
  expect(await home.ok('screenshot', 'web')).toMatch(/^echo: ready\n/);
  const file = join(home.folder, 'console.svg');
  await home.ok('screenshot', '-o', file, '--columns', '40', '--rows', '5', 'web');
  expect(readFileSync(file, 'utf8')).toMatch(/^<svg [^]*>echo: ready<\/text>[^]*<\/svg>\n$/);
  await home.ok('stop', 'web');
  const screen = await Vm.get('web', { home: home.env.TSVM_HOME }).screen({ columns: 40, rows: 5 });
  expect([screen.columns, screen.rows, screen.text().split('\n')[0]]).toEqual([40, 5, 'echo: ready']);
  expect((await home.tsvm('screenshot', '--format', 'gif', 'web')).code).toBe(2);
}, 60_000);

test('colours, styles and movements are those of a terminal', async () => {
  const output = 'plain \x1b[1;31mred\x1b[0m \x1b[38;2;1;2;3;7mrgb\x1b[0m\r\nlost\r\x1b[K<&>\x1b[3;5Hthere';
  const screen = await VmScreen.of(Buffer.from(output), { columns: 20, rows: 4 });
  expect(screen.text()).toBe('plain red rgb\n<&>\n    there\n');
  expect(screen.ansi()).toBe('plain \x1b[1;38;5;1mred\x1b[0m \x1b[7;38;2;1;2;3mrgb\x1b[0m\n<&>\n    there\n');
  expect(screen.cursor).toEqual({ column: 9, row: 2 });
  expect(screen.svg()).toContain('font-weight="bold">red</text>');
  expect(screen.svg()).toContain('>&lt;&amp;&gt;</text>');
});
