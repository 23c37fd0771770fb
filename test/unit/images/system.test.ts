import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { makeRecipe } from '../../../images/debian/recipe.ts';
import { buildDebian } from '../../../images/debian/system.ts';

const SHA = 'ab'.repeat(32);

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'tsvm-system-'));
  vi.stubEnv('TSVM_CACHE', cache);
  // Nothing may be run: what is asked for is there, or is refused before.
  vi.stubEnv('PATH', '/nonexistent');
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true });
});

describe('buildDebian', () => {
  it('takes an image that is in the cache without running anything', async () => {
    const { checksum } = await makeRecipe();
    const folder = join(cache, 'debian/images/0123-4567');
    mkdirSync(folder, { recursive: true });
    const files = ['disk.raw', 'vmlinuz', 'initrd.img', 'packages.txt'];
    for (const name of files) writeFileSync(join(folder, name), '');
    const record = {
      kernelVersion: '6.1.0-56-cloud-amd64',
      cmdline: 'root=PARTUUID=c53ef413-cf69-8a7e-ac41-679864774f76 ro quiet',
      diskSize: 4 * 1024 ** 3,
      rootOffset: 1024 ** 2,
      login: { user: 'root', password: 'tsvm' },
    };
    writeFileSync(join(folder, 'recipe.json'), JSON.stringify({ ...record, checksum }));
    const index = join(cache, 'debian/images', `${checksum.slice(0, 32)}.json`);
    writeFileSync(index, JSON.stringify({ folder: '0123-4567' }));
    expect(await buildDebian()).toEqual({
      ...record,
      folder,
      disk: join(folder, 'disk.raw'),
      kernel: join(folder, 'vmlinuz'),
      initrd: join(folder, 'initrd.img'),
      packages: join(folder, 'packages.txt'),
      recipe: join(folder, 'recipe.json'),
    });
  });

  it('names what a list of versions lacks', async () => {
    const versions = join(cache, 'packages.txt');
    const { packages } = await makeRecipe({ packages: ['less'] });
    const listed = packages.filter((name) => name !== 'udev' && name !== 'less');
    writeFileSync(versions, listed.map((name) => `${name} 1.0 amd64 ${SHA}\n`).join(''));
    await expect(buildDebian({ versions, packages: ['less'] })).rejects.toThrow(
      `${versions} has no version of less, udev`,
    );
  });

  it('names a list of versions that cannot be read', async () => {
    const versions = join(cache, 'nowhere');
    await expect(buildDebian({ versions })).rejects.toThrow(/cannot read the list of versions: .*nowhere/);
  });
});
