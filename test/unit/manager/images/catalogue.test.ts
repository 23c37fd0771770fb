import { mkdirSync, writeFileSync } from 'node:fs';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { findEntry, loadCatalogue, lookUp } from '../../../../src/manager/images/catalogue.ts';
import { ImageError } from '../../../../src/manager/images/errors.ts';
import { checkName, imageId, isImageId } from '../../../../src/manager/images/names.ts';
import { IniError } from '../../../../src/manager/ini.ts';
import { Random } from '../../../fuzz/random.ts';
import { temporaryFolder } from '../../../support/storage/qemu-img.ts';

const SHA = 'a'.repeat(64);

let folder: ReturnType<typeof temporaryFolder>;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

/** The package's catalogue under these settings. */
function withConfig(text: string): ReturnType<typeof loadCatalogue> {
  writeFileSync(folder.file('config.ini'), text);
  return loadCatalogue(folder.file('config.ini'));
}

describe("the package's catalogue", () => {
  it.each([
    ['ubuntu', 'ubuntu:24.04'],
    ['ubuntu:22.04', 'ubuntu:22.04'],
    ['ubuntu-24.04', 'ubuntu:24.04'],
    ['ubuntu:newest', 'ubuntu:26.04'],
    ['debian', 'debian:13'],
    ['debian:bookworm', 'debian:12'],
    ['centos', 'almalinux:9'],
    ['fedora', 'fedora:44'],
    ['alpine', 'alpine:3.23'],
  ])('knows %s', (name, own) => {
    expect(findEntry(loadCatalogue(), name).name).toBe(own);
  });

  it('has everything by https, with checksums that no mirror gives', () => {
    for (const { disk, kernel, initrd } of loadCatalogue().entries) {
      for (const file of [disk, kernel, initrd]) {
        if (file === undefined) continue;
        expect(file.url).toMatch(/^https:\/\//);
        expect('list' in file.proof && file.proof.list).toMatch(/^https:\/\/(?!download\.fedoraproject)/);
      }
    }
  });

  it('has the unpacked kernel of Ubuntu, with a list of its own', () => {
    const base = 'https://cloud-images.ubuntu.com/releases/noble/release';
    expect(findEntry(loadCatalogue(), 'ubuntu')).toMatchObject({
      disk: {
        url: `${base}/ubuntu-24.04-server-cloudimg-amd64.img`,
        proof: { list: `${base}/SHA256SUMS` },
      },
      kernel: {
        url: `${base}/unpacked/ubuntu-24.04-server-cloudimg-amd64-vmlinuz-generic`,
        name: 'ubuntu-24.04-server-cloudimg-amd64-vmlinuz-generic',
        proof: { list: `${base}/unpacked/SHA256SUMS` },
      },
    });
  });

  it('tells what there is where it does not know a name', () => {
    expect(() => findEntry(loadCatalogue(), 'ubuntu:25.13')).toThrow(
      expect.objectContaining({
        code: 'ENOENT',
        hint: expect.stringContaining('ubuntu:24.04') as string,
      }),
    );
  });
});

describe('settings of the user', () => {
  it('lead to a mirror what is below an address, the longest first', () => {
    const catalogue = withConfig(
      [
        '[mirror]',
        'https://cloud-images.ubuntu.com = https://m.example/u',
        'https://cloud-images.ubuntu.com/releases/jammy/ = http://10.0.0.1/jammy',
      ].join('\n'),
    );
    expect(findEntry(catalogue, 'ubuntu:24.04').disk.url).toBe(
      'https://m.example/u/releases/noble/release/ubuntu-24.04-server-cloudimg-amd64.img',
    );
    expect(findEntry(catalogue, 'ubuntu:22.04').disk).toMatchObject({
      url: 'http://10.0.0.1/jammy/release/ubuntu-22.04-server-cloudimg-amd64.img',
      proof: { list: 'http://10.0.0.1/jammy/release/SHA256SUMS' },
    });
  });

  it('do not lead away what only begins like an address', () => {
    const catalogue = withConfig('[mirror]\nhttps://cloud.debian.or = https://evil.example');
    expect(findEntry(catalogue, 'debian').disk.url).toMatch(/^https:\/\/cloud\.debian\.org\//);
  });

  it('add an image with a checksum', () => {
    const catalogue = withConfig(
      `[image "mine:1.2"]\naliases = mine\ndisk = https://x.example/a%20b.img\nformat = raw\nsha256 = ${SHA.toUpperCase()}\nuser = me\nagent = included`,
    );
    expect(findEntry(catalogue, 'mine')).toEqual({
      name: 'mine:1.2',
      aliases: ['mine'],
      title: 'mine:1.2',
      format: 'raw',
      disk: {
        url: 'https://x.example/a%20b.img',
        name: 'a b.img',
        proof: { algorithm: 'sha256', hex: SHA },
      },
      user: 'me',
      agent: 'included',
    });
  });

  it('change an image by any of its names, and leave the rest of it', () => {
    const catalogue = withConfig('[image "debian"]\nuser = admin');
    expect(findEntry(catalogue, 'debian:13')).toMatchObject({ user: 'admin', title: 'Debian 13 (trixie)' });
  });

  it('make a name mean another image', () => {
    const catalogue = withConfig(`[image "debian"]\ndisk = https://x.example/d.qcow2\nsha256 = ${SHA}`);
    expect(findEntry(catalogue, 'debian').disk.url).toBe('https://x.example/d.qcow2');
    expect(findEntry(catalogue, 'debian:13').disk.url).toContain('cloud.debian.org');
  });

  it('may be not there', () => {
    expect(loadCatalogue(folder.file('none.ini')).entries).toEqual(loadCatalogue().entries);
  });

  it('leave other sections to others', () => {
    expect(lookUp(withConfig('[defaults]\nmem = 1G\n'), 'ubuntu')).toBeDefined();
  });
});

describe('settings that cannot be', () => {
  it.each([
    ['a name that leads elsewhere', '[image "../x"]\ndisk = https://x.example/d', 1],
    ['a key that there is not', `[image "x"]\ndisk = https://x.example/d\nkernal = y`, 3],
    ['nothing to tell what came', '[image "x"]\ndisk = https://x.example/d', 2],
    ['half a checksum', '[image "x"]\ndisk = https://x.example/d\nsha256 = abcd', 3],
    ['a checksum of another kind', `[image "x"]\ndisk = https://x.example/d\nsha512 = ${SHA}`, 3],
    ['a file of this machine', `[image "x"]\ndisk = file:///etc/passwd\nsha256 = ${SHA}`, 2],
    ['a folder', `[image "x"]\ndisk = https://x.example/d/\nsha256 = ${SHA}`, 2],
    ['another format', `[image "x"]\ndisk = https://x.example/d\nformat = vmdk\nsha256 = ${SHA}`, 3],
    ['a user that is a path', `[image "x"]\ndisk = https://x.example/d\nsha256 = ${SHA}\nuser = ../a`, 4],
    ['an initrd alone', `[image "x"]\ndisk = https://x.example/d\nsha256 = ${SHA}\ninitrd = e`, 4],
    ['a mirror that is none', '[mirror]\nhttps://a.example = ftp://b.example', 2],
    [
      'another name that leads elsewhere',
      `[image "x"]\ndisk = https://x.example/d\nsha256 = ${SHA}\naliases = a /b`,
      4,
    ],
  ])('%s', (_, text, line) => {
    expect(() => withConfig(text)).toThrow(expect.objectContaining({ code: 'EINI', line }));
  });

  it('one name for two images', () => {
    expect(() =>
      withConfig(`[image "x"]\naliases = ubuntu\ndisk = https://x.example/d\nsha256 = ${SHA}`),
    ).toThrow(/the name ubuntu means two images/);
  });

  it('come to a catalogue or to a clear error, whatever they are', () => {
    const values = [
      ...[
        'https://x.example/d',
        'http://[::1]/x',
        'file:///etc/passwd',
        '../../x',
        '//x',
        'https://',
        'https://x/%ff',
      ],
      ...[
        '',
        'raw',
        'qcow2',
        SHA,
        'a b',
        'ä',
        '%',
        '\\',
        '"',
        "'",
        '{}',
        '[]',
        'ubuntu',
        '..',
        '-',
        ':',
        '\u001b[2J',
      ],
    ];
    const keys = [
      'disk',
      'base',
      'checksums',
      'sha256',
      'sha512',
      'format',
      'aliases',
      'user',
      'kernel',
      'initrd',
      'agent',
      'x',
    ];
    const sections = [
      '[image "x:1"]',
      '[image "ubuntu"]',
      '[image ""]',
      '[image "a/b"]',
      '[mirror]',
      '[image "__proto__"]',
    ];
    let good = 0;
    for (let seed = 0; seed < 600; seed++) {
      const random = new Random(seed);
      const lines = random
        .shuffle([...sections])
        .slice(0, random.between(1, 2))
        .flatMap((section) => [
          section,
          ...random
            .shuffle([...keys])
            .slice(0, random.below(5))
            .map((key) => `${key} = ${random.pick(values)}`),
        ]);
      try {
        good += withConfig(lines.join('\n')).entries.length > 0 ? 1 : 0;
      } catch (error) {
        expect(
          error instanceof IniError || error instanceof ImageError,
          `seed ${seed}: ${String(error)}`,
        ).toBe(true);
      }
    }
    expect(good).toBeGreaterThan(20);
  });
});

describe('names of images', () => {
  it.each([
    '',
    '.',
    '..',
    '../x',
    'a/b',
    '/a',
    'a:b:c',
    'A',
    '-a',
    'a-',
    'a..b',
    'a\0',
    'a\n',
    ':a',
    'a:',
    'a'.repeat(65),
  ])('cannot be %j', (name) => {
    expect(() => checkName(name)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('are in the identifier, which tells contents apart', () => {
    const id = imageId('ubuntu:24.04', ['1', '2']);
    expect(id).toMatch(/^ubuntu-24\.04-[0-9a-f]{12}$/);
    expect(isImageId(id)).toBe(true);
    expect(imageId('ubuntu:24.04', ['1', '3'])).not.toBe(id);
  });

  it.each([
    '..',
    '../a-000000000000',
    'a/b-000000000000',
    '.new-a-000000000000',
    'a-00000000000',
    `${'a'.repeat(99)}-000000000000`,
  ])('are no identifiers: %s', (id) => {
    expect(isImageId(id)).toBe(false);
  });
});

it('reads all files of its folder, and says which one is wrong', () => {
  mkdirSync(folder.file('images'));
  writeFileSync(folder.file('images/b.ini'), '[x]\ndisk = nowhere\n');
  expect(() => loadCatalogue(undefined, folder.file('images'))).toThrow(
    /images\/b\.ini:2: nowhere is no address/,
  );
});
