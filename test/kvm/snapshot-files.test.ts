/** Snapshots as files, by the built command line: there and back, and files that are not what they seem. */
import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { tarHeader, tarPadding, TAR_END } from '../../src/manager/copy/tar-writer.ts';
import { readTar } from '../../src/manager/copy/tar-reader.ts';
import { noQemuTools, qemuCheck, qemuIo } from '../support/storage/qemu-img.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;
let file: string;

beforeEach(() => {
  home = new VmHome();
  file = join(home.folder, 'web.tar.gz');
});
afterEach(() => home.remove());

const folderOf = (name: string): string => join(home.env.TSVM_HOME, 'vms', name);
const diskOf = (name: string): string => join(folderOf(name), 'root.qcow2');

function expectAt(name: string, pattern: number, at: string): void {
  const said = qemuIo(diskOf(name), `read -P ${pattern} ${at} 64k`);
  if (said.includes('failed')) throw new Error(said);
}

/** A VM of 1 GiB that is nearly empty, with a snapshot. */
async function exported(): Promise<void> {
  await home.create('web', '--disk', '1G');
  qemuIo(diskOf('web'), 'write -P 1 0 64k', 'write -P 2 900M 64k');
  await home.ok('snapshot', 'create', 'web', 'one');
  qemuIo(diskOf('web'), 'write -P 3 0 64k');
  await home.ok('snapshot', 'export', 'web', 'one', file);
}

describe.skipIf(noQemuTools !== undefined)('a snapshot of disks', () => {
  test('is a VM with all that it had, on a host that has nothing of it', async () => {
    await exported();
    await home.ok('delete', 'web');
    expect(await home.ok('snapshot', 'import', file)).toBe('web\n');
    expectAt('web', 1, '0');
    expectAt('web', 2, '900M');
    expect(qemuCheck(diskOf('web'))).not.toHaveProperty('corruptions');
    await home.ok('start', 'web');
    await home.ok('wait', '--for', '/echo: ready/', '--timeout', '30', 'web');
    await home.ok('stop', '--force', 'web');
    qemuIo(diskOf('web'), 'write -P 4 0 64k');
    await home.ok('restore', '--force', 'web', 'one');
    expectAt('web', 1, '0');
  });

  test('has no holes stored, and is what tar and sha256sum know', async () => {
    await exported();
    expect(gunzipSync(readFileSync(file)).length).toBeLessThan(4 * 2 ** 20);
    const folder = join(home.folder, 'tar');
    mkdirSync(folder);
    await execa('tar', ['-xzf', file, '-C', folder]);
    expect(readdirSync(folder).sort()).toEqual(['SHA256SUMS', 'disk.0', 'kernel', 'manifest.json', 'vm.ini']);
    const disk = statSync(join(folder, 'disk.0'));
    expect([disk.size, disk.blocks * 512 < 4 * 2 ** 20]).toEqual([2 ** 30, true]);
    const { stdout } = await execa('sha256sum', ['-c', '--ignore-missing', 'SHA256SUMS'], {
      cwd: folder,
      reject: false,
    });
    // Of the disk the sum is that of what is stored.
    expect(stdout.split('\n')).toEqual(['manifest.json: OK', 'vm.ini: OK', 'kernel: OK', 'disk.0: FAILED']);
  });

  test('goes through pipes, under another name', async () => {
    await exported();
    const { stdout } = await execa(
      'sh',
      [
        '-c',
        `"$0" "$1" snapshot export web one - | "$0" "$1" snapshot import --json - other`,
        process.execPath,
        'dist/tsvm.cjs',
      ],
      { env: home.env },
    );
    expect(JSON.parse(stdout)).toEqual({ name: 'other', snapshot: 'one', memory: false, left: [] });
    expectAt('other', 2, '900M');
  });

  test('is not written over a file, or imported over a VM', async () => {
    await exported();
    expect((await home.tsvm('snapshot', 'export', 'web', 'one', file)).stderr).toContain(
      'such a file already',
    );
    await home.ok('snapshot', 'export', '--force', 'web', 'one', file);
    expect((await home.tsvm('snapshot', 'import', file)).stderr).toContain("a VM 'web' already");
  });
});

test('what ran goes on from a file', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  await home.ok('wait', '--for', '/echo: ready/', '--timeout', '30', 'web');
  await home.ok('snapshot', 'create', 'web', 'one');
  await home.ok('snapshot', 'export', 'web', 'one', file);
  await home.ok('delete', '--force', 'web');
  await home.ok('snapshot', 'import', file, 'other');
  expect(await home.state('other')).toBe('suspended');
  await home.ok('start', 'other');
  await home.ok('send', '--enter', 'other', 'typed');
  await home.ok('wait', '--for', '/typed/', '--timeout', '30', 'other');
  expect(await home.ok('screenshot', 'other')).not.toContain('echo: ready');
});

type Entry = { path: string; content: Buffer };

/** Entries of an archive, by the paths that they have in it. */
async function entriesOf(path: string): Promise<Entry[]> {
  const entries: Entry[] = [];
  const bytes = gunzipSync(readFileSync(path));
  async function* pieces() {
    yield await Promise.resolve(bytes);
  }
  for await (const entry of readTar(pieces())) {
    const content: Buffer[] = [];
    for await (const piece of entry.content) content.push(Buffer.from(piece));
    entries.push({ path: entry.path, content: Buffer.concat(content) });
  }
  return entries;
}

/** An archive with checksums that are right, whatever the entries are. */
function archiveOf(entries: readonly Entry[], type: 'File' | 'SymbolicLink' = 'File'): Buffer {
  const all = entries.filter(({ path }) => path !== 'SHA256SUMS');
  const sums = all
    .map(({ path, content }) => {
      const digest = createHash('sha256').update(content).digest('hex');
      return `${digest}  ${path.replace('GNUSparseFile.0/', '')}\n`;
    })
    .join('');
  const blocks = [...all, { path: 'SHA256SUMS', content: Buffer.from(sums) }].map(({ path, content }, i) => {
    const isLink = type === 'SymbolicLink' && i === 1;
    const header = tarHeader({
      type: isLink ? type : 'File',
      path,
      ...(isLink && { target: '/etc/passwd' }),
      mode: 0o644,
      mtime: new Date(0),
      size: isLink ? 0 : content.length,
    });
    return Buffer.concat([header, ...(isLink ? [] : [content, tarPadding(content.length)])]);
  });
  return gzipSync(Buffer.concat([...blocks, TAR_END]));
}

test('a file that is not what it seems is refused whole, with the reason', async () => {
  await home.create('web');
  await home.ok('snapshot', 'create', 'web', 'one');
  await home.ok('snapshot', 'export', 'web', 'one', file);
  await home.ok('delete', 'web');
  const good = readFileSync(file);
  const entries = await entriesOf(file);
  const changed = (path: string, change: (entry: Entry) => Entry): Buffer =>
    archiveOf(entries.map((entry) => (entry.path === path ? change(entry) : entry)));
  const text = (path: string, from: string | RegExp, to: string): Buffer =>
    changed(path, ({ content }) => ({ path, content: Buffer.from(content.toString().replace(from, to)) }));
  const disk = 'GNUSparseFile.0/disk.0';
  const map = (lines: string): Buffer =>
    changed(disk, () => ({ path: disk, content: Buffer.concat([Buffer.from(lines.padEnd(512, '\0'))]) }));
  const flipped = gunzipSync(good);
  flipped[flipped.length - 3 * 1024]! ^= 1;

  const cases: readonly (readonly [string, Buffer, RegExp])[] = [
    ['cut off', good.subarray(0, good.length >> 1), /is cut off/],
    ['no gzip', Buffer.from('nothing'), /not compressed by gzip/],
    ['a bit changed', gzipSync(flipped), /checksum is wrong/],
    [
      'another path',
      changed('vm.ini', ({ content }) => ({ path: '../../vm.ini', content })),
      /"\.\.\/\.\.\/vm\.ini" in the place of vm\.ini/,
    ],
    ['a link', archiveOf(entries, 'SymbolicLink'), /in the place of vm\.ini/],
    [
      'one more',
      archiveOf([...entries, { path: 'more', content: Buffer.alloc(0) }]),
      /in the place of SHA256SUMS/,
    ],
    ['one less', archiveOf(entries.filter(({ path }) => path !== disk)), /in the place of disk\.0/],
    [
      'a newer version',
      text('manifest.json', '"version": 1', '"version": 2'),
      /manifest\.json cannot be: 'version'/,
    ],
    ['a name', text('manifest.json', '"vm": "web"', '"vm": "../web"'), /'\.\.\/web' is no name for a VM/],
    [
      'a snapshot name',
      text('manifest.json', '"name": "one"', '"name": "../../x"'),
      /manifest\.json cannot be: 'snapshot\.name'/,
    ],
    ['a large disk', text('manifest.json', '1048576', '1e300'), /manifest\.json cannot be: 'disks\.0'/],
    ['settings', text('vm.ini', /memory = .*/, 'memory = x'), /vm\.ini:\d+: 'memory'/],
    [
      'more disks',
      text('vm.ini', '[network]', '[disk.1]\nfile = /etc/shadow\nformat = raw\n[network]'),
      /other disks than its manifest/,
    ],
    ['a map of text', map('1\nx\n'), /disk\.0: its map is none/],
    ['a map outside', map('2\n0\n2097152\n1048576\n0\n'), /disk\.0: its map leads out of it/],
    ['a map that goes back', map('3\n512\n512\n0\n512\n1048576\n0\n'), /disk\.0: its map leads out of it/],
    ['a map with too many', map('99999999\n'), /disk\.0: its map has 99999999 extents/],
    [
      'a map with parts of sectors',
      changed(disk, () => ({
        path: disk,
        content: Buffer.concat([Buffer.from('2\n0\n7\n1048576\n0\n'.padEnd(512, '\0')), Buffer.alloc(7, 1)]),
      })),
      /disk\.0: its map is not in units of 512 bytes/,
    ],
    ['shorter than its map', map('2\n0\n512\n1048576\n0\n'), /disk\.0 is shorter than its map/],
  ];
  for (const [what, bytes, message] of cases) {
    writeFileSync(file, bytes);
    const { code, stderr } = await home.tsvm('snapshot', 'import', file);
    expect([what, code, stderr]).toEqual([what, 1, expect.stringMatching(message)]);
    expect(readdirSync(join(home.env.TSVM_HOME, 'vms'))).toEqual([]);
  }
}, 300_000);

test('what leads to the other host is left out', async () => {
  await home.create('web');
  await home.ok('snapshot', 'create', 'web', 'one');
  await home.ok('snapshot', 'export', 'web', 'one', file);
  await home.ok('delete', 'web');
  const entries = await entriesOf(file);
  const ini = entries.find(({ path }) => path === 'vm.ini')!;
  ini.content = Buffer.from(
    ini.content
      .toString()
      .replace('jail = on', 'jail = off\nssh-key = /root/.ssh/id_rsa')
      .replace('card.0 = none', 'card.0 = tap=tap0\ncard.1 = user')
      .replace('[shares]', '[shares]\nshare.0 = /:/mnt'),
  );
  writeFileSync(file, archiveOf(entries));
  const { code, stderr } = await home.tsvm('snapshot', 'import', file);
  expect([code, stderr]).toEqual([
    0,
    'tsvm: left out: shared folder /:/mnt\ntsvm: left out: network card tap=tap0\ntsvm: left out: jail = off\n',
  ]);
  const text = readFileSync(join(folderOf('web'), 'vm.ini'), 'utf8');
  for (const each of ['tap0', 'id_rsa', '/:/mnt', 'jail = off']) expect(text).not.toContain(each);
  expect(existsSync(join(folderOf('web'), 'clone.json'))).toBe(false);
});
