import { execFileSync, spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { cpio, type CpioEntry } from '../../../images/debian/cpio.ts';

const FIELDS = [
  ...['ino', 'mode', 'uid', 'gid', 'nlink', 'mtime', 'filesize'],
  ...['devmajor', 'devminor', 'rdevmajor', 'rdevminor', 'namesize', 'check'],
] as const;

type Member = Record<(typeof FIELDS)[number], number> & { readonly name: string; readonly content: string };

/** Reads a newc archive by buffer-format.rst: 6 + 13 * 8 characters, name and content padded to 4 bytes. */
function parse(archive: Buffer): Member[] {
  const members: Member[] = [];
  for (let at = 0; at < archive.length;) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const numbers = FIELDS.map((_, i) =>
      parseInt(archive.toString('latin1', at + 6 + i * 8, at + 14 + i * 8), 16),
    );
    const fields = Object.fromEntries(FIELDS.map((name, i) => [name, numbers[i]])) as Record<
      (typeof FIELDS)[number],
      number
    >;
    const name = archive.toString('latin1', at + 110, at + 110 + fields.namesize - 1);
    expect(archive[at + 110 + fields.namesize - 1]).toBe(0);
    const data = align(at + 110 + fields.namesize);
    members.push({ ...fields, name, content: archive.toString('latin1', data, data + fields.filesize) });
    at = align(data + fields.filesize);
  }
  return members;
}

const align = (n: number) => Math.ceil(n / 4) * 4;
const byName = (archive: Buffer, name: string) => parse(archive).find((member) => member.name === name)!;

/** The cpio of this machine, its own or busybox's. */
const tool = [['cpio'], ['busybox', 'cpio']].find(
  ([file, ...args]) => spawnSync(file!, [...args, '-t'], { input: cpio([]) }).status === 0,
);

describe('cpio', () => {
  it('ends an archive with the trailer', () => {
    expect(parse(cpio([])).map(({ name }) => name)).toEqual(['TRAILER!!!']);
  });

  it('writes a file with its mode, size and content', () => {
    const archive = cpio([{ type: 'file', path: 'init', content: 'hello', mode: 0o755 }]);
    expect(byName(archive, 'init')).toMatchObject({
      mode: 0o100755,
      filesize: 5,
      content: 'hello',
      nlink: 1,
    });
  });

  it.each([0, 1, 2, 3, 4, 5])('keeps what follows a file of %i bytes aligned', (length) => {
    const archive = cpio([
      { type: 'file', path: 'a', content: 'x'.repeat(length) },
      { type: 'file', path: 'b', content: 'after' },
    ]);
    expect(byName(archive, 'b').content).toBe('after');
    expect(archive.length % 4).toBe(0);
  });

  it('writes the bytes of a view and not those around it', () => {
    const view = new Uint8Array([1, 0x79, 0x65, 0x73, 2]).subarray(1, 4);
    const archive = cpio([{ type: 'file', path: 'view', content: view }]);
    expect(byName(archive, 'view').content).toBe('yes');
  });

  it('writes a symbolic link with its target as content', () => {
    const archive = cpio([{ type: 'symlink', path: 'bin/sh', target: 'busybox' }]);
    expect(byName(archive, 'bin/sh')).toMatchObject({ mode: 0o120777, content: 'busybox' });
  });

  it('writes a character device with its numbers', () => {
    const archive = cpio([{ type: 'char', path: 'dev/console', major: 5, minor: 1 }]);
    expect(byName(archive, 'dev/console')).toMatchObject({
      mode: 0o020600,
      rdevmajor: 5,
      rdevminor: 1,
      filesize: 0,
    });
  });

  it('puts missing directories before what is in them, each once', () => {
    const archive = cpio([
      { type: 'file', path: 'a/b/c', content: '' },
      { type: 'file', path: 'a/b/d', content: '' },
    ]);
    expect(parse(archive).map(({ name }) => name)).toEqual(['a', 'a/b', 'a/b/c', 'a/b/d', 'TRAILER!!!']);
    expect(byName(archive, 'a/b').mode).toBe(0o040755);
  });

  it('takes a directory that was added for a file before as the same', () => {
    const archive = cpio([
      { type: 'file', path: 'etc/hosts', content: '' },
      { type: 'dir', path: 'etc' },
    ]);
    expect(parse(archive).filter(({ name }) => name === 'etc')).toHaveLength(1);
  });

  it('depends on nothing but its input', () => {
    const entries: CpioEntry[] = [{ type: 'file', path: 'x', content: 'y' }];
    expect(cpio(entries)).toEqual(cpio(entries));
    expect(byName(cpio(entries), 'x')).toMatchObject({ uid: 0, gid: 0, mtime: 0 });
  });

  it('gives every entry an inode of its own, or hard links would be made', () => {
    const archive = cpio(['a', 'b', 'c'].map((path) => ({ type: 'file', path, content: '' }) as const));
    const inodes = parse(archive)
      .slice(0, -1)
      .map(({ ino }) => ino);
    expect(new Set(inodes).size).toBe(3);
  });

  it.each(['', '/abs', 'a//b', './a', 'a/../b', 'a/', '..'])('refuses the path %j', (path) => {
    expect(() => cpio([{ type: 'dir', path }])).toThrow(RangeError);
  });

  it('refuses a file that is there twice', () => {
    const entry: CpioEntry = { type: 'file', path: 'x', content: '' };
    expect(() => cpio([entry, entry])).toThrow(/x is there twice/);
  });

  it.skipIf(tool === undefined)('is read by cpio(1)', () => {
    const archive = cpio([
      { type: 'file', path: 'dir/odd', content: 'abc' },
      { type: 'symlink', path: 'link', target: 'dir/odd' },
    ]);
    const [file, ...args] = tool!;
    const listed = execFileSync(file!, [...args, '-t'], {
      input: archive,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    expect(listed.toString().trim().split('\n')).toEqual(['dir', 'dir/odd', 'link']);
  });
});
