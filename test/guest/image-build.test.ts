/** `tsvm image build debian`, where its packages are in the cache: an image among the others, and VMs on it. */
import { execa } from 'execa';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { buildDebian } from '../../images/debian/system.ts';
import type { VmSettings } from '../../src/index.ts';
import { TSVM } from './support.ts';

let home: string;

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'tsvm-build-'));
  await buildDebian();
}, 900_000);
afterAll(() => rmSync(home, { recursive: true, force: true }));

async function tsvm(...args: readonly string[]): Promise<string> {
  return (await execa(process.execPath, [TSVM, ...args], { env: { TSVM_HOME: home } })).stdout;
}

it('makes an image that VMs are made on', async () => {
  await tsvm('image', 'build', 'debian');
  const system = await buildDebian();
  expect(JSON.parse(await tsvm('image', 'info', '--json', 'debian:built'))).toMatchObject({
    name: 'debian:built',
    format: 'raw',
    virtualSize: system.diskSize,
    agent: 'included',
  });
  await tsvm('create', 'debian:built', 'web');
  const { settings } = JSON.parse(await tsvm('info', '--json', 'web')) as { settings: VmSettings };
  expect(settings.boot.cmdline).toBe(`${system.cmdline} console=ttyS0`);
  expect(readFileSync(settings.boot.kernel!).equals(readFileSync(system.kernel))).toBe(true);
});
