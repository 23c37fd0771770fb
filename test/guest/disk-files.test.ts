/** Disk images where the host's file system can do less: in the lab that is 9p, without unnamed files and holes. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GuestHost } from '../lab/host.ts';
import { openHost, TSVM } from './support.ts';

let host: GuestHost;

beforeAll(async () => {
  host = await openHost();
});
afterAll(async () => {
  await host.close();
});

async function disk(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await host.exec(['node', TSVM, 'disk', ...args]);
  expect(`${args[0]}: ${code} ${stderr}`).toBe(`${args[0]}: 0 `);
  return stdout;
}

test('images are made, layered, converted and replaced in a shared folder, and nothing else is left there', async () => {
  const folder = join(host.shared, 'images');
  const at = (name: string): string => join(folder, name);
  await host.exec(['mkdir', folder]);
  await disk('create', at('base.qcow2'), '64M');
  await disk('create', '--backing', at('base.qcow2'), '--backing-format', 'qcow2', at('top.qcow2'));
  await disk('resize', '--format', 'qcow2', at('top.qcow2'), '128M');
  await disk('convert', '--format', 'qcow2', at('top.qcow2'), at('flat.raw'));
  await disk('convert', '--format', 'raw', '--compress', at('flat.raw'), at('again.qcow2'));
  await disk('create', '--force', at('base.qcow2'), '32M');
  await disk('check', at('again.qcow2'));
  const { stdout } = await host.exec(['ls', folder]);
  expect(stdout.split(/\s+/).filter(Boolean)).toEqual(['again.qcow2', 'base.qcow2', 'flat.raw', 'top.qcow2']);

  const info = JSON.parse(await disk('info', '--json', '--format', 'qcow2', at('again.qcow2'))) as unknown;
  expect(info).toMatchObject({ format: 'qcow2' });
  const lost = await host.exec([
    'node',
    TSVM,
    'disk',
    'convert',
    '--format',
    'qcow2',
    at('top.qcow2'),
    at('x.raw'),
  ]);
  expect(lost.code).not.toBe(0);
  expect(lost.stderr).toContain('base.qcow2');
});
