/** Backing files that are refused: what a user is told, by a command and where a VM starts. */
import {
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';

import { temporaryFolder } from '../../support/storage/qemu-img.ts';
import { bundle } from './support/bundle.ts';
import { diskFolder } from './support/disk-folder.ts';
import { Background } from './support/run-tsvm.ts';

const HOLDER = bundle('../../../support/storage/hold-disks.ts');

const folder = diskFolder();
const { file, tsvm, made } = folder;

/** top.qcow2 on middle.qcow2 on base.raw */
function makeChain(): void {
  made('create', '-f', 'raw', 'base.raw', '1M');
  made('create', '-b', 'base.raw', '-F', 'raw', 'middle.qcow2');
  made('create', '-b', 'middle.qcow2', '-F', 'qcow2', 'top.qcow2');
}

/** Writes another name into an image, as long as one that a hostile maker of images could have chosen. */
function rename(image: string, old: string, name: string): void {
  const bytes = readFileSync(file(image));
  bytes.write(name, bytes.indexOf(old));
  bytes.writeUInt32BE(name.length, 16);
  writeFileSync(file(image), bytes);
  forgetStamp(image);
  if (image !== 'top.qcow2') forgetStamp('top.qcow2');
}

/** Takes the record away of what the file below was like. */
function forgetStamp(image: string): void {
  const bytes = readFileSync(file(image));
  bytes.writeUInt32BE(0x7473_7600, bytes.indexOf('tsvb'));
  writeFileSync(file(image), bytes);
}

const WAYS: readonly (readonly [what: string, spoil: () => void, why: RegExp, chain: string])[] = [
  ['missing', () => rmSync(file('base.raw')), /no such file/, 'top.qcow2 <- middle.qcow2 <- base.raw'],
  [
    'changed since',
    () => utimesSync(file('base.raw'), 1, 1),
    /was changed after the overlay was made: it was written to at 1970/,
    'top.qcow2 <- middle.qcow2 <- base.raw',
  ],
  [
    'of another size',
    () => truncateSync(file('base.raw'), 2 ** 19),
    /it has 524288 bytes now, and had 1048576/,
    'top.qcow2 <- middle.qcow2 <- base.raw',
  ],
  [
    'in a loop',
    () => rename('middle.qcow2', 'base.raw', 'top.qcow2'),
    /form a loop/,
    'top.qcow2 <- middle.qcow2 <- top.qcow2',
  ],
  [
    'named by an absolute path elsewhere',
    () => rename('middle.qcow2', 'base.raw', '/etc/passwd'),
    /outside the folders/,
    'top.qcow2 <- middle.qcow2 <- /etc/passwd',
  ],
  [
    'named by a path that leads out',
    () => rename('middle.qcow2', 'base.raw', '../../etc/passwd'),
    /outside the folders/,
    'top.qcow2 <- middle.qcow2 <- ../../etc/passwd',
  ],
  [
    'a link that leads out',
    () => {
      renameSync(file('base.raw'), file('old'));
      symlinkSync('/etc/passwd', file('base.raw'));
    },
    /outside the folders/,
    'top.qcow2 <- middle.qcow2 <- base.raw',
  ],
  [
    'on a server',
    () => rename('middle.qcow2', 'base.raw', 'nbd://127.0.0.1/x'),
    /without a protocol/,
    'top.qcow2 <- middle.qcow2 <- nbd://127.0.0.1/x',
  ],
  [
    'a description in JSON',
    () => rename('middle.qcow2', 'base.raw', 'json:{"driver":"null-co"}'),
    /without a protocol/,
    'top.qcow2 <- middle.qcow2 <- json:{"driver":"null-co"}',
  ],
  [
    'of another format than is recorded',
    () => {
      made('create', '-f', 'raw', 'plain', '1M');
      renameSync(file('plain'), file('middle.qcow2'));
      forgetStamp('top.qcow2');
    },
    /middle.qcow2: .*qcow2/,
    'top.qcow2 <- middle.qcow2',
  ],
];

describe.each(WAYS)('a backing file that is %s', (_what, spoil, why, chain) => {
  it('is refused to a command, which prints the chain and what to do', () => {
    makeChain();
    spoil();
    const { code, stdout, stderr } = tsvm('map', '-f', 'qcow2', 'top.qcow2');
    expect(code).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^tsvm: top.qcow2: .*\nhint: .*\n$/);
    expect(stderr).toMatch(why);
    expect(stderr).toContain(`(chain: ${chain})\n`);
  });

  it('is refused to a VM', async () => {
    makeChain();
    spoil();
    const vm = new Background(process.execPath, [HOLDER, 'top.qcow2,format=qcow2'], folder.path);
    const said = await vm.shows(/\n/);
    expect(said).toMatch(/^top.qcow2: /);
    expect(said).toMatch(why);
    expect(said).toContain(`(chain: ${chain})`);
  });
});

describe('a backing file in another folder', () => {
  it('is used where the user trusts the image, or names the folder', () => {
    const elsewhere = temporaryFolder();
    try {
      const base = elsewhere.file('base.raw');
      made('create', '-f', 'raw', base, '1M');
      made('create', '-b', base, '-F', 'raw', 'a.qcow2');
      const { stderr } = tsvm('map', '-f', 'qcow2', 'a.qcow2');
      expect(stderr).toContain('--trust-backing');
      made('map', '-f', 'qcow2', '--trust-backing', 'a.qcow2');
      made('map', '-f', 'qcow2', '--backing-folder', elsewhere.path, 'a.qcow2');
      made('create', '-b', 'a.qcow2', '-F', 'qcow2', '--trust-backing', 'b.qcow2');
    } finally {
      elsewhere.remove();
    }
  });
});

describe('what a VM writes', () => {
  it('is no image that begins like qcow2 and was given without its format', async () => {
    made('create', 'a', '1M');
    const vm = new Background(process.execPath, [HOLDER, 'a'], folder.path);
    expect(await vm.shows(/\n/)).toMatch(
      /^a: begins like a qcow2 image, and no format is given\nname the format/,
    );
  });
});
