import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { LOGIN, makeRecipe, type RecipeOptions } from '../../../images/debian/recipe.ts';

const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDn3l7Q1x3Yx0d8u2i1W4E5mZ9z1bYJr5Uo0l7k2cQaB me@here';
const file = (recipe: Awaited<ReturnType<typeof makeRecipe>>, path: string) =>
  recipe.overlay.find((entry) => entry.path === path)?.content;

describe('makeRecipe', () => {
  it('has one checksum and one set of identifiers for the same options', async () => {
    const [one, other] = [await makeRecipe(), await makeRecipe({ packages: [], authorizedKeys: [] })];
    expect(one.checksum).toMatch(/^[0-9a-f]{64}$/);
    expect(other).toEqual(one);
  });

  it.each<[string, RecipeOptions]>([
    ['size', { diskSize: 5 * 1024 ** 3 }],
    ['package', { packages: ['vim-tiny'] }],
    ['key', { authorizedKeys: [KEY] }],
  ])('has another checksum and other identifiers for another %s', async (_, options) => {
    const [one, other] = [await makeRecipe(), await makeRecipe(options)];
    expect(other.checksum).not.toBe(one.checksum);
    expect(Object.values(other.ids)).not.toContain(one.ids.root);
  });

  it('does not care for the order of packages, nor for one that is there anyway', async () => {
    const one = await makeRecipe({ packages: ['vim-tiny', 'less'] });
    const other = await makeRecipe({ packages: ['less', 'fio', 'vim-tiny'] });
    expect(other.checksum).toBe(one.checksum);
  });

  it('makes identifiers that are UUIDs of version 8, all different', async () => {
    const ids = Object.values((await makeRecipe()).ids);
    for (const id of ids)
      expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('mounts the root file system by its identifier and has it checked first', async () => {
    const recipe = await makeRecipe();
    const fields = file(recipe, 'etc/fstab')?.trim().split(' ');
    expect(fields).toEqual([`UUID=${recipe.ids.root}`, '/', 'ext4', 'errors=remount-ro', '0', '1']);
  });

  it('puts keys into the image only where there are some', async () => {
    const path = 'etc/tsvm-authorized-keys';
    expect(file(await makeRecipe(), path)).toBeUndefined();
    expect(file(await makeRecipe({ authorizedKeys: [KEY] }), path)).toBe(`${KEY}\n`);
  });

  it('has the hash of the password that it tells', async () => {
    const { passwordHash } = await makeRecipe();
    const crypt = 'print crypt($ARGV[0], $ARGV[1])';
    const { stdout, error } = spawnSync('perl', ['-e', crypt, LOGIN.password, passwordHash], {
      encoding: 'utf8',
    });
    expect(error).toBeUndefined();
    expect(stdout).toBe(passwordHash);
  });

  it.each([0, -1, 1024 ** 3, 4 * 1024 ** 3 + 512, 17 * 1024 ** 4, NaN, Infinity])(
    'refuses a disk of %d bytes',
    async (diskSize) => {
      await expect(makeRecipe({ diskSize })).rejects.toThrow(RangeError);
    },
  );

  it.each(['', '-o', 'a b', 'vim,less', 'Vim', 'vim=2'])('refuses a package named %j', async (name) => {
    await expect(makeRecipe({ packages: [name] })).rejects.toThrow(/not the name of a Debian package/);
  });

  it.each(['', 'hello', `${KEY}\n${KEY}`, 'ssh-ed25519'])('refuses the key %j', async (key) => {
    await expect(makeRecipe({ authorizedKeys: [key] })).rejects.toThrow(/not an SSH public key/);
  });
});
