/** Backing files: which are opened, and what is said of those that are not. */
import { mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IoRing } from '../../../src/kvm/io-ring.ts';
import { StorageError } from '../../../src/storage/disk.ts';
import { openDisk } from '../../../src/storage/open.ts';
import type { ChainPolicy } from '../../../src/storage/qcow2/chain.ts';
import { createOverlay } from '../../../src/storage/qcow2/create-overlay.ts';
import { createQcow2, layoutImage } from '../../../src/storage/qcow2/create.ts';
import { DiskUser } from '../../support/disk-user.ts';
import { temporaryFolder } from '../../support/storage/qemu-img.ts';

const SIZE = 2 ** 20;

let ring: IoRing;
let folder: ReturnType<typeof temporaryFolder>;

beforeEach(() => {
  ring = new IoRing();
  folder = temporaryFolder();
});

afterEach(() => {
  ring.close();
  folder.remove();
});

/** An overlay as somebody else could have made it: with any name, whatever is there. */
function overlayNaming(name: string, format = 'qcow2', file = 'overlay.qcow2'): string {
  const path = folder.file(file);
  const layout = layoutImage(path, { size: SIZE, backingFile: name, backingFormat: 'qcow2' });
  const { header } = layout;
  header.backingFormat = format === '' ? undefined : format;
  const bytes = new Uint8Array(layout.end);
  for (const { offset, bytes: part } of layout.segments()) bytes.set(part, offset);
  writeFileSync(path, bytes);
  return path;
}

async function refusal(path: string, backing: ChainPolicy = {}): Promise<StorageError> {
  try {
    const disk = await openDisk(ring, { path, format: 'qcow2', backing });
    await disk.close();
  } catch (error) {
    if (error instanceof StorageError) return error;
    throw error;
  }
  throw new Error('it was opened');
}

describe('a backing file is refused', () => {
  test.each([
    'nbd://127.0.0.1/disk',
    'json:{"driver":"file","filename":"/etc/shadow"}',
    'ssh://host/disk',
    'fat:rw:/tmp',
    'http://example.org/disk.qcow2',
  ])('that is named by a protocol: %s', async (name) => {
    const path = overlayNaming(name);
    expect(await refusal(path, { trusted: true })).toMatchObject({
      code: 'EPERM',
      message: expect.stringContaining(`(chain: ${path} <- ${name})`) as string,
    });
  });

  test.each(['/etc/shadow', '../../etc/shadow', '/dev/zero'])('outside of the folder: %s', async (name) => {
    expect((await refusal(overlayNaming(name, 'raw'))).message).toMatch(/outside the folders|no such file/);
  });

  test('outside of the folder, through a link that is in it', async () => {
    symlinkSync('/etc/passwd', folder.file('base.raw'));
    expect((await refusal(overlayNaming('base.raw', 'raw'))).message).toMatch(/outside the folders/);
  });

  test('that is a device, even where the image is trusted', async () => {
    expect((await refusal(overlayNaming('/dev/zero', 'raw'), { trusted: true })).message).toMatch(
      /regular file/,
    );
  });

  test('that is not there, with the whole chain named', async () => {
    const middle = overlayNaming('base.qcow2', 'qcow2', 'middle.qcow2');
    const path = overlayNaming('middle.qcow2');
    expect((await refusal(path)).message).toContain(`(chain: ${path} <- ${middle} <- base.qcow2)`);
  });

  test('whose format is not recorded', async () => {
    await createQcow2(folder.file('base.qcow2'), { size: SIZE });
    const error = await refusal(overlayNaming('base.qcow2', ''));
    expect(error.message).toMatch(/format.*not recorded/);
    expect(error.hint).toContain('rebase');
  });

  test('of a format that we do not know', async () => {
    await createQcow2(folder.file('base.qcow2'), { size: SIZE });
    expect((await refusal(overlayNaming('base.qcow2', 'vmdk'))).message).toMatch(/"vmdk" are not supported/);
  });

  test('that is the image itself', async () => {
    expect((await refusal(overlayNaming('overlay.qcow2'))).message).toMatch(/loop.*chain/);
  });

  test('where a chain comes back to where it was', async () => {
    overlayNaming('overlay.qcow2', 'qcow2', 'middle.qcow2');
    expect((await refusal(overlayNaming('middle.qcow2'))).message).toMatch(/loop/);
  });

  test('where a chain has too many layers', async () => {
    for (let i = 0; i < 70; i++) overlayNaming(`layer${i + 1}.qcow2`, 'qcow2', `layer${i}.qcow2`);
    await createQcow2(folder.file('layer70.qcow2'), { size: SIZE });
    expect((await refusal(folder.file('layer0.qcow2'))).message).toMatch(/more than 64 layers/);
  });

  test('that was written to since the overlay was made', async () => {
    writeFileSync(folder.file('base.raw'), new Uint8Array(SIZE));
    await createOverlay(ring, folder.file('overlay.qcow2'), { name: 'base.raw', format: 'raw' });
    writeFileSync(folder.file('base.raw'), new Uint8Array(SIZE).fill(1));
    utimesSync(folder.file('base.raw'), 1, 1);
    const error = await refusal(folder.file('overlay.qcow2'));
    expect(error).toMatchObject({ code: 'ESTALE' });
    expect(error.message).toMatch(/was changed after the overlay was made.*1970/);
  });

  test('that has another size than when the overlay was made', async () => {
    writeFileSync(folder.file('base.raw'), new Uint8Array(SIZE));
    await createOverlay(ring, folder.file('overlay.qcow2'), { name: 'base.raw', format: 'raw' });
    writeFileSync(folder.file('base.raw'), new Uint8Array(SIZE / 2));
    expect((await refusal(folder.file('overlay.qcow2'))).message).toMatch(
      /524288 bytes now, and had 1048576/,
    );
  });
});

describe('a backing file is opened', () => {
  const base = new Uint8Array(SIZE).fill(3);

  async function firstByte(path: string, backing: ChainPolicy = {}): Promise<number | undefined> {
    const disk = await openDisk(ring, { path, format: 'qcow2', backing });
    const [byte] = await new DiskUser(ring, disk).read(0, 512);
    await disk.close();
    return byte;
  }

  test('whose name is relative to the image, wherever we are', async () => {
    mkdirSync(folder.file('bases'));
    writeFileSync(folder.file('bases/base.raw'), base);
    expect(await firstByte(overlayNaming('bases/base.raw', 'raw'))).toBe(3);
  });

  test('in a folder that the caller names', async () => {
    mkdirSync(folder.file('vms'));
    writeFileSync(folder.file('base.raw'), base);
    const path = overlayNaming('../base.raw', 'raw', 'vms/overlay.qcow2');
    expect((await refusal(path)).message).toMatch(/outside the folders/);
    expect(await firstByte(path, { folders: [folder.path] })).toBe(3);
  });

  test('anywhere, where the image is trusted', async () => {
    const elsewhere = temporaryFolder();
    writeFileSync(elsewhere.file('base.raw'), base);
    expect(await firstByte(overlayNaming(elsewhere.file('base.raw'), 'raw'), { trusted: true })).toBe(3);
    elsewhere.remove();
  });

  test('that was moved together with its overlay', async () => {
    mkdirSync(folder.file('a'));
    writeFileSync(folder.file('a/base.raw'), base);
    await createOverlay(ring, folder.file('a/overlay.qcow2'), { name: 'base.raw', format: 'raw' });
    renameSync(folder.file('a'), folder.file('b'));
    expect(await firstByte(join(folder.file('b'), 'overlay.qcow2'))).toBe(3);
    rmSync(folder.file('b'), { recursive: true });
  });

  test('although it was written to since, where the caller accepts that', async () => {
    writeFileSync(folder.file('base.raw'), new Uint8Array(SIZE));
    await createOverlay(ring, folder.file('overlay.qcow2'), { name: 'base.raw', format: 'raw' });
    writeFileSync(folder.file('base.raw'), base);
    utimesSync(folder.file('base.raw'), 1, 1);
    expect(await firstByte(folder.file('overlay.qcow2'), { acceptChanged: true })).toBe(3);
  });
});
