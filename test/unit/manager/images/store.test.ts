import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { importImage } from '../../../../src/manager/images/import.ts';
import { RECORD_NAME } from '../../../../src/manager/images/record.ts';
import {
  downloadsFolder,
  findImage,
  getImage,
  imageLock,
  listImages,
  pruneImages,
  removeImage,
  stagingFolder,
} from '../../../../src/manager/images/store.ts';
import { vmsOverImage } from '../../../../src/manager/images/users.ts';
import { withLock } from '../../../../src/manager/lock.ts';
import { managerPaths, type ManagerPaths } from '../../../../src/manager/paths.ts';
import { createDisk, createOverlay } from '../../../../src/storage/tools.ts';
import { noise } from '../../../support/images/distributors.ts';
import { temporaryFolder } from '../../../support/storage/qemu-img.ts';

const MIB = 2 ** 20;

let folder: ReturnType<typeof temporaryFolder>;
let paths: ManagerPaths;
beforeEach(() => {
  folder = temporaryFolder();
  paths = managerPaths({ TSVM_HOME: folder.file('home') });
});
afterEach(() => folder.remove());

const usersOf = (image: Parameters<typeof vmsOverImage>[1]) => vmsOverImage(paths, image);

async function qcow2(name: string): Promise<string> {
  await createDisk(folder.file(name), { format: 'qcow2', size: 4 * MIB });
  return folder.file(name);
}

/** A VM with an overlay over an image. */
async function overlay(vm: string, disk: string): Promise<void> {
  mkdirSync(join(paths.vms, vm), { recursive: true });
  const path = join(paths.vms, vm, 'disk.qcow2');
  await createOverlay(path, { name: disk, format: 'qcow2' }, { trusted: true });
}

describe('imports', () => {
  it('take a qcow2 image for one, by the way it begins', async () => {
    const image = await importImage(paths, await qcow2('Debian 12.qcow2'));
    expect(image).toMatchObject({ name: 'debian-12', format: 'qcow2', virtualSize: 4 * MIB });
    expect(statSync(image.disk).mode & 0o777).toBe(0o444);
    expect(readFileSync(image.disk).equals(readFileSync(folder.file('Debian 12.qcow2')))).toBe(true);
  });

  it('take a qcow2 image for a raw disk only where nobody could mean that', async () => {
    await expect(importImage(paths, await qcow2('a.img'), { format: 'raw' })).rejects.toMatchObject({
      code: 'EFORMAT',
    });
  });

  it('leave holes, and end with a sector', async () => {
    const raw = folder.file('disk.raw');
    writeFileSync(raw, noise(5000, 1));
    truncateSync(raw, 200 * MIB + 1);
    const image = await importImage(paths, raw);
    const { size, blocks } = statSync(image.disk);
    expect(size).toBe(200 * MIB + 512);
    expect(blocks * 512).toBeLessThan(MIB);
    expect(readFileSync(image.disk).subarray(0, 5000).equals(noise(5000, 1))).toBe(true);
  });

  it('take a kernel and an initrd with it', async () => {
    writeFileSync(folder.file('k'), 'kernel');
    writeFileSync(folder.file('i'), 'initrd');
    const image = await importImage(paths, await qcow2('a.qcow2'), {
      name: 'mine:1',
      kernel: folder.file('k'),
      initrd: folder.file('i'),
      cmdline: 'root=/dev/vda',
      user: 'me',
    });
    expect(readFileSync(image.kernel ?? '', 'utf8')).toBe('kernel');
    expect(readFileSync(image.initrd ?? '', 'utf8')).toBe('initrd');
    expect(getImage(paths, 'mine:1')).toEqual(image);
  });

  it.each(['../x', 'a/b', '..', 'A', ''])('have no name that leads elsewhere: %j', async (name) => {
    await expect(importImage(paths, await qcow2('a.qcow2'), { name })).rejects.toMatchObject({
      code: 'EINVAL',
    });
    expect(existsSync(paths.images)).toBe(false);
  });

  it('are of files, complete and not in use', async () => {
    mkdirSync(folder.file('dir'));
    writeFileSync(folder.file('empty'), '');
    writeFileSync(folder.file('packed.img'), Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 0]));
    for (const [name, code] of [
      ['dir', 'EFORMAT'],
      ['empty', 'EFORMAT'],
      ['packed.img', 'EFORMAT'],
      ['none', 'ENOENT'],
    ] as const)
      await expect(importImage(paths, folder.file(name))).rejects.toMatchObject({ code });
    await expect(importImage(paths, '/dev/zero', { name: 'zero' })).rejects.toMatchObject({
      code: 'EFORMAT',
    });
    expect(existsSync(paths.images) ? readdirSync(join(paths.images, '.downloads')) : []).toEqual([]);
  });

  it('are no overlays', async () => {
    await qcow2('base.qcow2');
    await createOverlay(folder.file('top.qcow2'), { name: 'base.qcow2', format: 'qcow2' });
    await expect(importImage(paths, folder.file('top.qcow2'))).rejects.toMatchObject({
      code: 'EFORMAT',
      message: expect.stringContaining('overlay') as string,
    });
    expect(listImages(paths).images).toEqual([]);
  });
});

describe('an image that VMs use', () => {
  it('is below their overlays without a copy', async () => {
    const image = await importImage(paths, await qcow2('a.qcow2'));
    await overlay('one', image.disk);
    expect(await usersOf(image)).toEqual(['one']);
  });

  it('is not removed, and its users are named', async () => {
    const image = await importImage(paths, await qcow2('a.qcow2'));
    await overlay('one', image.disk);
    await overlay('two', image.disk);
    await expect(removeImage(paths, 'a', usersOf)).rejects.toMatchObject({
      code: 'EBUSY',
      message: `the image ${image.id} is used by one, two`,
    });
    expect(existsSync(image.disk)).toBe(true);
  });

  it('is not pruned, while others are', async () => {
    const used = await importImage(paths, await qcow2('a.qcow2'));
    const unused = await importImage(paths, await qcow2('b.qcow2'));
    await overlay('one', used.disk);
    const { removed, freed } = await pruneImages(paths, usersOf);
    expect(removed).toEqual([unused]);
    expect(freed).toBeGreaterThan(0);
    expect(listImages(paths).images).toEqual([used]);
  });
});

describe('the store', () => {
  it('removes an image with its folder', async () => {
    const image = await importImage(paths, await qcow2('a.qcow2'));
    expect(await removeImage(paths, 'a', usersOf)).toEqual({ id: image.id });
    expect(readdirSync(paths.images).filter((name) => !name.startsWith('.downloads'))).toEqual([]);
  });

  it('removes no folder that is not its own', async () => {
    mkdirSync(folder.file('home/images'), { recursive: true });
    for (const name of ['..', '../vms', '/etc', '.downloads', 'nothing', 'x-000000000000'])
      await expect(removeImage(paths, name, usersOf)).rejects.toThrow();
    expect(existsSync(folder.file('home'))).toBe(true);
  });

  it('tells which image is damaged, and removes it by its identifier', async () => {
    const image = await importImage(paths, await qcow2('a.qcow2'));
    const record = join(image.folder, RECORD_NAME);
    chmodSync(record, 0o644);
    for (const text of [
      '',
      '{',
      '[]',
      '{"version": 2}',
      '{"version": 1, "name": "x", "format": "../../x"}',
    ]) {
      writeFileSync(record, text);
      expect(listImages(paths)).toMatchObject({ images: [], damaged: [{ id: image.id }] });
    }
    expect(await removeImage(paths, image.id, usersOf)).toEqual({ id: image.id });
    expect(listImages(paths)).toEqual({ images: [], damaged: [] });
  });

  it('takes no notice of what is not an image', async () => {
    const image = await importImage(paths, await qcow2('a.qcow2'));
    mkdirSync(join(paths.images, 'notes'));
    mkdirSync(join(paths.images, 'empty-000000000000'));
    symlinkSync('/etc', join(paths.images, 'link-000000000000'));
    writeFileSync(join(paths.images, 'file-000000000000'), '');
    expect(listImages(paths)).toEqual({ images: [image], damaged: [] });
    expect(findImage(paths, 'empty-000000000000')).toBeUndefined();
  });

  it('gives back what commands left that were killed, and leaves what others are at', async () => {
    const [dead, alive] = ['a-000000000000', 'b-000000000000'] as const;
    for (const id of [dead, alive]) {
      mkdirSync(downloadsFolder(paths, id), { recursive: true });
      writeFileSync(join(downloadsFolder(paths, id), 'disk.qcow2.part'), Buffer.alloc(MIB, 1));
    }
    mkdirSync(stagingFolder(paths, dead));
    mkdirSync(join(paths.images, '.old-x-000000000000-1-a'));
    await withLock(paths, imageLock(alive), async () => {
      const { freed } = await pruneImages(paths, usersOf);
      expect(freed).toBeGreaterThanOrEqual(MIB);
      expect(freed).toBeLessThan(2 * MIB);
    });
    expect(readdirSync(paths.images)).toEqual(['.downloads']);
    expect(readdirSync(join(paths.images, '.downloads'))).toEqual([alive]);
  });
});
