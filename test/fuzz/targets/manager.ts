/**
 * What people and files can tell the manager: names of VMs and images, settings, the user's config.ini, user data for
 * cloud-init and disk images. It is taken, and can be read again as it was, or refused by an error of the manager's
 * own; and outside of the data directory nothing changes.
 */
import { deepStrictEqual, ok } from 'node:assert';
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeSeed } from '../../../src/manager/cloud-init/seed.ts';
import { loadCatalogue } from '../../../src/manager/images/catalogue.ts';
import { importImage } from '../../../src/manager/images/import.ts';
import { getImage, listImages, removeImage } from '../../../src/manager/images/store.ts';
import { managerPaths, type ManagerPaths } from '../../../src/manager/paths.ts';
import type { VmSettings } from '../../../src/manager/vms/settings.ts';
import { VmStore } from '../../../src/manager/vms/store.ts';
import { parseVmIni } from '../../../src/manager/vms/vm-ini.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

/** Errors that tell a user what is wrong. */
const REFUSALS = new Set([
  'CloudInitError',
  'ImageError',
  'IniError',
  'PathError',
  'StorageError',
  'VmNameError',
  'VmStoreError',
]);

const PIECES = [
  ...[
    'a',
    'web',
    'Z',
    '0',
    '-',
    '.',
    '..',
    '/',
    '../',
    '/etc',
    '~',
    ' ',
    ':',
    '_',
    '%2e',
    '$(id)',
    '\\',
    '|',
  ],
  ...['\0', '\n', '\r', '\t', '\x1b[2J', '"', "'", ';', '#', '=', '[', ']', '{}', 'ä', '\ud800', '\u202e'],
  ...['__proto__', 'constructor', '.new-a-1', 'vm.ini', 'x'.repeat(70)],
];

const MAGIC = [
  Buffer.from('QFI\xfb\0\0\0\x03', 'latin1'),
  Buffer.from('QFI\xfb\0\0\0\x02', 'latin1'),
  Buffer.from([0x1f, 0x8b, 8, 0]),
  Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]),
  Buffer.from('PK\x03\x04'),
  Buffer.from('../../outside\0'),
  Buffer.alloc(0),
];

const CONFIG = readFileSync(join(import.meta.dirname, '../../../images/debian.ini'), 'utf8');

const words = (random: Random, most: number): string =>
  Array.from({ length: random.between(1, most) }, () => random.pick(PIECES)).join('');

/** Good ones are among them, so that there is something to clash with. */
const name = (random: Random): string =>
  random.oneIn(2) ? random.pick(['a', 'b', 'web']) : words(random, 5);

/** A text with some of its bytes, or lines, in other places. */
function damaged(random: Random, text: string): string {
  const lines = text.split('\n');
  for (let i = random.between(1, 4); i > 0; i--) {
    const at = random.below(lines.length);
    const line = lines[at]!;
    const cut = random.below(line.length + 1);
    switch (random.below(4)) {
      case 0:
        lines.splice(at, 1, line.slice(0, cut) + words(random, 3) + line.slice(cut));
        break;
      case 1:
        lines.splice(at, 0, random.pick(lines));
        break;
      case 2:
        lines.splice(at, 1);
        lines.push('');
        break;
      default:
        lines.splice(
          at,
          1,
          line.replace(/=.*/, () => `= ${words(random, 4)}`),
        );
    }
  }
  return lines.join('\n');
}

function settings(random: Random): VmSettings {
  const text = (): string => (random.oneIn(2) ? 'plain' : words(random, 4));
  const bad = <T>(good: T, other: T): T => (random.oneIn(8) ? other : good);
  const maybe = <T extends object>(value: T): T | object => (random.oneIn(2) ? value : {});
  return {
    vm: {
      memory: bad(random.pick([2 ** 25, 2 ** 30 + 4096]), random.pick([1, 2 ** 60])),
      cpus: bad(random.pick([1, 32]), random.pick([0, 33, 1.5])),
      console: 'serial',
      transport: 'pci',
      balloon: random.oneIn(2),
      jail: 'on',
      ...maybe({ image: text() }),
      ...maybe({ user: bad('root', text()) }),
      ...maybe({ cpuLimit: bad(1.5, random.pick([0, -1, 1e-7, Infinity])) }),
    },
    boot: { ...maybe({ kernel: text() }), ...maybe({ cmdline: text() }) },
    disks: [{ file: text(), format: 'qcow2', trustBacking: true, readOnly: false, cache: 'writeback' }].slice(
      random.below(2),
    ) as VmSettings['disks'],
    network: {
      cards: [bad('user', text())],
      publish: random.oneIn(2) ? [] : [bad('8080:80', text())],
      hostAccess: false,
    },
    shares: random.oneIn(2) ? [] : [bad('/srv:/mnt', `/${text()}:/mnt`)],
  };
}

type Action = (random: Random, home: Home) => unknown;
type Home = { readonly folder: string; readonly paths: ManagerPaths; readonly store: VmStore };

const ACTIONS: readonly Action[] = [
  async (random, { store }) => {
    const wanted = settings(random);
    const called = name(random);
    await store.create(called, (folder) => {
      writeFileSync(join(folder, 'disk'), '');
      return Promise.resolve(wanted);
    });
    deepStrictEqual(store.settings(called), wanted);
  },
  (random, { store }) => store.rename(name(random), name(random)),
  (random, { store }) => store.delete(name(random)),
  (random, { store }) => store.status(name(random)),
  (random, { store }) => {
    const called = random.pick(store.names().length === 0 ? ['a'] : store.names());
    const path = join(store.folderOf(called), 'vm.ini');
    const text = damaged(random, readFileSync(path, 'utf8'));
    const read = parseVmIni(text, path);
    store.writeSettings(called, read);
    deepStrictEqual(store.settings(called), read);
  },
  (random, { folder }) => {
    const config = join(folder, 'data/config.ini');
    writeFileSync(config, damaged(random, CONFIG));
    try {
      return loadCatalogue(config);
    } finally {
      rmSync(config);
    }
  },
  (random) => {
    const content = Buffer.concat([
      random.pick([Buffer.from('#cloud-config\n'), Buffer.from('#!/bin/sh\n'), ...MAGIC]),
      random.fill(Buffer.alloc(random.below(300))),
    ]);
    const { disk } = makeSeed({
      hostname: random.oneIn(2) ? 'web' : words(random, 4),
      userData: { content, name: words(random, 3) },
      ...(random.oneIn(3) && { user: words(random, 3) }),
      ...(random.oneIn(3) && { sshKeys: [`ssh-ed25519 ${words(random, 6)}`] }),
      ...(random.oneIn(4) && { instanceId: words(random, 3) }),
    });
    ok(disk.length < 2 ** 22 && Buffer.from(disk).includes(content));
  },
  async (random, { folder, paths }) => {
    const file = join(folder, 'given');
    writeFileSync(
      file,
      Buffer.concat([random.pick(MAGIC), random.fill(Buffer.alloc(random.pick([0, 100, 512, 3000])))]),
    );
    const image = await importImage(paths, file, {
      name: random.oneIn(2) ? 'image' : words(random, 3),
      ...(random.oneIn(3) && { format: random.pick(['raw', 'qcow2'] as const) }),
      ...(random.oneIn(3) && { title: words(random, 3), cmdline: words(random, 3) }),
    });
    deepStrictEqual(getImage(paths, image.id).disk, image.disk);
  },
  (random, { paths }) => {
    const { images } = listImages(paths);
    if (images.length === 0) return;
    const path = join(random.pick(images).folder, 'image.json');
    const record = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    record[random.pick(Object.keys(record))] = random.pick([
      words(random, 4),
      5,
      null,
      [],
      {},
      -1,
      '../../outside',
    ]);
    writeFileSync(path, JSON.stringify(record));
    listImages(paths);
  },
  (random, { paths }) => {
    const { images, damaged: broken } = listImages(paths);
    const known = [...images, ...broken].map(({ id }) => id);
    return removeImage(paths, random.pick([words(random, 3), ...known]), () => []);
  },
];

/** Everything outside of the data directory, with what is in it. */
const outside = (folder: string): string =>
  readdirSync(folder)
    .filter((each) => each !== 'data' && each !== 'given')
    .map(
      (each) => `${each} ${lstatSync(join(folder, each)).mode} ${readFileSync(join(folder, each), 'utf8')}`,
    )
    .join('\n');

export const managerTarget: FuzzTarget = {
  name: 'manager',
  async run(random) {
    const folder = mkdtempSync(join(tmpdir(), 'tsvm-fuzz-'));
    try {
      const paths = managerPaths({ TSVM_HOME: join(folder, 'data') });
      mkdirSync(paths.root);
      writeFileSync(join(folder, 'outside'), 'outside');
      const before = outside(folder);
      const home = { folder, paths, store: new VmStore(paths.vms) };
      for (let i = random.between(1, 6); i > 0; i--) {
        try {
          await random.pick(ACTIONS)(random, home);
        } catch (error) {
          if (!(error instanceof Error) || !REFUSALS.has(error.name)) throw error;
          ok(error.message.length < 5000);
        }
        deepStrictEqual(outside(folder), before);
        // Whatever it was, all that is left can be read.
        for (const each of home.store.names()) home.store.settings(each);
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
