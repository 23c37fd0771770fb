import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';

import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { OP } from '../../../../src/devices/fs/protocol.ts';
import { FuseClient, pack, readBody, ROOT, writeBody } from '../../../support/virtio/fuse.ts';

const SECRET = 'the secret outside';
const isRoot = process.getuid?.() === 0;

/** A shared folder in a folder with what the guest must not reach. */
type World = {
  readonly client: FuseClient;
  /** the shared folder */
  readonly share: string;
  /** its parent */
  readonly outside: string;
};

let world: World;
const children: ChildProcess[] = [];

beforeEach(async () => {
  const outside = mkdtempSync(join(tmpdir(), 'tsvm-escape-'));
  const share = join(outside, 'share');
  mkdirSync(share);
  mkdirSync(join(outside, 'private'));
  writeFileSync(join(outside, 'secret'), SECRET);
  writeFileSync(join(outside, 'private/secret'), SECRET);
  mkdirSync(join(share, 'sub'));
  writeFileSync(join(share, 'sub/file'), 'inside');
  world = { client: await FuseClient.mount({ path: share }), share, outside };
});

afterEach(async () => {
  for (const child of children.splice(0)) {
    const ended = once(child, 'close');
    process.kill(-child.pid!, 'SIGKILL');
    await ended;
  }
  world.client.close();
  // Whatever a test has tried, nothing outside has changed.
  expect(readFileSync(join(world.outside, 'secret'), 'utf8')).toBe(SECRET);
  expect(readFileSync(join(world.outside, 'private/secret'), 'utf8')).toBe(SECRET);
  expect(readdirSync(world.outside).sort()).toEqual(['private', 'secret', 'share']);
  rmSync(world.outside, { recursive: true, force: true });
});

const CREATE = (name: string, flags = 0o102): Buffer => pack(flags, 0o644, 0, 0, name);

/** What a name must not be, and what its refusal is. */
const NAMES: readonly (readonly [title: string, name: string, error: string])[] = [
  ['..', '..', 'EINVAL'],
  ['.', '.', 'EINVAL'],
  ['an empty name', '', 'EINVAL'],
  ['../secret', '../secret', 'EINVAL'],
  ['sub/../../secret', 'sub/../../secret', 'EINVAL'],
  ['sub/file', 'sub/file', 'EINVAL'],
  ['/etc/passwd', '/etc/passwd', 'EINVAL'],
  ['/', '/', 'EINVAL'],
  ['../', '../', 'EINVAL'],
  ['a name with a slash at its end', 'sub/', 'EINVAL'],
  ['a name of 256 bytes', 'n'.repeat(256), 'ENAMETOOLONG'],
  ['a path of 4095 bytes', '../'.repeat(1365), 'ENAMETOOLONG'],
];

/** Requests that take a name in a folder. */
const TAKERS: readonly (readonly [title: string, opcode: number, body: (name: string) => Buffer])[] = [
  ['lookup', OP.lookup, (name) => pack(name)],
  ['create', OP.create, (name) => CREATE(name)],
  ['mknod', OP.mknod, (name) => pack(0o100644, 0, 0, 0, name)],
  ['mkdir', OP.mkdir, (name) => pack(0o755, 0, name)],
  ['symlink', OP.symlink, (name) => pack(name, 'target')],
  ['unlink', OP.unlink, (name) => pack(name)],
  ['rmdir', OP.rmdir, (name) => pack(name)],
  ['rename from', OP.rename, (name) => pack(ROOT, name, 'other')],
  ['rename to', OP.rename, (name) => pack(ROOT, 'sub', name)],
  ['rename2 to', OP.rename2, (name) => pack(ROOT, 0, 0, 'sub', name)],
  ['link', OP.link, (name) => pack(ROOT, name)],
];

describe('a name that is a path', () => {
  describe.each(NAMES)('%s', (_, name, error) => {
    test.each(TAKERS)('is refused by %s', async (taker, opcode, body) => {
      const { client } = world;
      // A hard link needs a file.
      const from = taker === 'link' ? (await client.walk('sub/file')).node : ROOT;
      const bytes = taker === 'link' ? pack(from, name) : body(name);
      expect(await client.fails(opcode, ROOT, bytes)).toMatch(name === '' ? /EINVAL|ENOENT/ : error);
    });
  });

  test.each(TAKERS)('ends at its NUL, or is none without one: %s', async (taker, opcode, body) => {
    const { client } = world;
    const whole = taker === 'link' ? pack((await client.walk('sub/file')).node, 'x') : body('x');
    const cut = whole.subarray(0, whole.lastIndexOf(0));
    expect(await client.fails(opcode, ROOT, Buffer.concat([cut, Buffer.from('y')]))).toBe('EINVAL');
  });
});

describe('a symbolic link', () => {
  const TARGETS = [
    ['an absolute path', (outside: string) => join(outside, 'secret')],
    ['a path with ..', () => '../secret'],
    ['/proc/self/root', () => '/proc/self/root'],
    ['/proc/self/fd/0', () => '/proc/self/fd/0'],
    ['/proc/self/cwd', () => '/proc/self/cwd'],
    ['itself', () => 'link'],
  ] as const;

  test.each(TARGETS)('to %s is a link, and nothing of the host is behind it', async (_, target) => {
    const { client, share, outside } = world;
    symlinkSync(target(outside), join(share, 'link'));
    const { node, mode } = await client.lookup(ROOT, 'link');
    expect(mode & 0o170000).toBe(0o120000);
    expect((await client.must(OP.readlink, node)).toString()).toBe(target(outside));
    expect(await client.fails(OP.open, node, pack(0, 0))).toBe('ELOOP');
    expect(await client.fails(OP.opendir, node, pack(0, 0))).toBe('ENOTDIR');
    expect(await client.fails(OP.lookup, node, pack('secret'))).toBe('ENOTDIR');
    expect(await client.fails(OP.create, ROOT, CREATE('link'))).toBe('ELOOP');
    expect(await client.fails(OP.setattr, node, pack(1, 0, Buffer.alloc(60), 0o777, 0, 0, 0, 0))).toBe(
      'EOPNOTSUPP',
    );
    expect(await client.fails(OP.setattr, node, pack(8, 0, Buffer.alloc(80)))).toBe('EINVAL');
    expect(await client.fails(OP.setxattr, node, pack(1, 0, 'user.x', Buffer.from('y')))).toBe('EPERM');
  });

  test('of the guest’s making leads nowhere on the host either', async () => {
    const { client, outside } = world;
    const body = await client.must(OP.symlink, ROOT, pack('made', outside));
    const node = body.readBigUInt64LE(0);
    expect(await client.fails(OP.lookup, node, pack('secret'))).toBe('ENOTDIR');
    expect(await client.fails(OP.mkdir, node, pack(0o755, 0, 'x'))).toBe('ENOTDIR');
    expect(await client.fails(OP.rename, ROOT, pack(node, 'sub', 'x'))).toBe('ENOTDIR');
    expect(await client.fails(OP.create, node, CREATE('x'))).toBe('ENOTDIR');
    expect(await client.fails(OP.symlink, node, pack('x', 'y'))).toBe('ENOTDIR');
  });

  test('that is put in a folder’s place after the lookup changes nothing', async () => {
    const { client, share, outside } = world;
    const { node } = await client.lookup(ROOT, 'sub');
    renameSync(join(share, 'sub'), join(share, 'moved'));
    symlinkSync(outside, join(share, 'sub'));
    expect(await client.fails(OP.lookup, node, pack('secret'))).toBe('ENOENT');
    await client.create(node, 'new');
    expect(existsSync(join(share, 'moved/new'))).toBe(true);
  });

  test('that is put in a file’s place between lookup and open changes nothing', async () => {
    const { client, share, outside } = world;
    const { node } = await client.walk('sub/file');
    unlinkSync(join(share, 'sub/file'));
    symlinkSync(join(outside, 'secret'), join(share, 'sub/file'));
    const { fh } = await client.open(node, 2);
    expect((await client.read(node, fh, 0, 100)).toString()).toBe('inside');
    await client.write(node, fh, 0, 'changed');
  });
});

/** Swaps a name in the share as fast as it can, from another process. */
function swap(script: string): void {
  const child = spawn('/bin/sh', ['-c', `cd "$0" && while :; do ${script}; done`, world.share], {
    stdio: 'ignore',
    detached: true,
  });
  children.push(child);
}

describe('a race', () => {
  test('of a folder and a link to the outside in its place never leads there', async () => {
    const { client, outside } = world;
    mkdirSync(join(world.share, 'swapped'));
    swap(`mv swapped kept; ln -s ${outside} swapped; rm swapped; mv kept swapped`);
    let found = 0;
    for (let i = 0; i < 400; i++) {
      const answer = await client.ask(OP.lookup, ROOT, pack('swapped'));
      if (answer.error !== undefined) continue;
      found++;
      const node = answer.body.readBigUInt64LE(0);
      expect(await client.fails(OP.lookup, node, pack('secret'))).toMatch(/ENOENT|ENOTDIR/);
      await client.forget(node, 1);
    }
    expect(found).toBeGreaterThan(0);
  });

  test('of a file and a link in its place never creates, truncates or opens what is outside', async () => {
    const { client, outside } = world;
    swap(`rm -f x; ln -s ${outside}/secret x; rm x; : > x`);
    for (let i = 0; i < 400; i++) {
      const answer = await client.ask(OP.create, ROOT, CREATE('x', 0o1102));
      if (answer.error !== undefined) {
        expect(answer.error).toMatch(/ELOOP|EAGAIN|ENOENT/);
        continue;
      }
      const [node, fh] = [answer.body.readBigUInt64LE(0), answer.body.readBigUInt64LE(128)];
      await client.write(node, fh, 0, 'the guest was here');
      await client.release(node, fh);
      await client.forget(node, 1);
    }
  });

  test('of a fifo and a file in its place never waits for a fifo’s writer', async () => {
    const { client } = world;
    swap('rm -f x; mkfifo x; rm x; echo file > x');
    for (let i = 0; i < 300; i++) {
      const answer = await client.ask(OP.create, ROOT, CREATE('x', 0o102));
      if (answer.error !== undefined) expect(answer.error).toMatch(/ENXIO|EAGAIN|ENOENT/);
      else await client.release(answer.body.readBigUInt64LE(0), answer.body.readBigUInt64LE(128));
    }
  });

  test('of a parent that moves about while names are looked up in it stays below it', async () => {
    const { client } = world;
    mkdirSync(join(world.share, 'a/b/c'), { recursive: true });
    const { node } = await client.walk('a/b');
    swap('mv a/b b; mv b a/b');
    for (let i = 0; i < 400; i++) {
      expect(await client.fails(OP.lookup, node, pack('..'))).toBe('EINVAL');
      expect((await client.lookup(node, 'c')).mode & 0o170000).toBe(0o040000);
    }
  });
});

describe('a folder that the host moves out of the share', () => {
  test('is still what the guest had, and leads to nothing beside it', async () => {
    const { client, share, outside } = world;
    const { node } = await client.lookup(ROOT, 'sub');
    renameSync(join(share, 'sub'), join(outside, 'private/sub'));
    expect(await client.fails(OP.lookup, node, pack('..'))).toBe('EINVAL');
    expect(await client.fails(OP.lookup, node, pack('secret'))).toBe('ENOENT');
    expect([...(await client.list(node)).keys()].sort()).toEqual(['.', '..', 'file']);
    const listed = await client.list(node, OP.readdirplus);
    expect(listed.get('..')).toBeUndefined();
    renameSync(join(outside, 'private/sub'), join(share, 'sub'));
  });
});

describe('files that are no files', () => {
  test('a fifo of the host is not opened', async () => {
    const { client, share } = world;
    execFileSync('mkfifo', [join(share, 'fifo')]);
    const { node } = await client.lookup(ROOT, 'fifo');
    for (const flags of [0, 1, 2, 0o1001])
      expect(await client.fails(OP.open, node, pack(flags, 0))).toBe('ENXIO');
    expect(await client.fails(OP.create, ROOT, CREATE('fifo'))).toBe('ENXIO');
    expect(await client.fails(OP.setattr, node, pack(8, 0, Buffer.alloc(80)))).toBe('EINVAL');
  });

  test('a socket of the host is not opened', async () => {
    const { client, share } = world;
    const server = createServer().listen(join(share, 'socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    const { node } = await client.lookup(ROOT, 'socket');
    expect(await client.fails(OP.open, node, pack(2, 0))).toBe('ENXIO');
    expect(await client.fails(OP.create, ROOT, CREATE('socket'))).toBe('ENXIO');
    await new Promise((resolve) => server.close(resolve));
  });

  test.skipIf(!isRoot)('a device of the host is not opened (needs root)', async () => {
    const { client, share } = world;
    execFileSync('mknod', [join(share, 'null'), 'c', '1', '3']);
    const { node } = await client.lookup(ROOT, 'null');
    expect(await client.fails(OP.open, node, pack(2, 0))).toBe('ENXIO');
    expect(await client.fails(OP.create, ROOT, CREATE('null'))).toBe('ENXIO');
  });

  test.each([
    ['character', 0o020666],
    ['block', 0o060666],
    ['directory', 0o040755],
    ['link', 0o120777],
    ['nonsense', 0o170777],
  ])('a guest makes no node of type %s', async (_, mode) => {
    const { client, share } = world;
    expect(await client.fails(OP.mknod, ROOT, pack(mode, 0x0103, 0, 0, 'made'))).toBe('EPERM');
    expect(existsSync(join(share, 'made'))).toBe(false);
  });
});

describe('what is mounted in the share', () => {
  test.skipIf(!isRoot)('is not entered (needs root)', async () => {
    const { client, share } = world;
    mkdirSync(join(share, 'proc'));
    try {
      execFileSync('mount', ['--bind', '/proc', join(share, 'proc')], { stdio: 'pipe' });
    } catch {
      console.log('not tried: this process may not mount');
      return;
    }
    try {
      expect(await client.fails(OP.lookup, ROOT, pack('proc'))).toBe('EACCES');
      const listed = await client.list(ROOT, OP.readdirplus);
      expect(listed.has('proc')).toBe(true);
      expect(listed.get('proc')).toBeUndefined();
    } finally {
      execFileSync('umount', [join(share, 'proc')]);
    }
  });

  test.each(['/proc', '/sys', '/proc/self/fd'])('%s itself is not shared', async (path) => {
    await expect(FuseClient.mount({ path })).rejects.toThrow(/cannot share .*kernel/);
  });
});

describe('numbers that the guest was not given', () => {
  const FORGED = [0n, 2n, 3n, 4096n, 0xffff_ffffn, 2n ** 32n + 1n, 2n ** 63n, 2n ** 64n - 1n];

  test.each(FORGED)('the node %s is nobody’s', async (node) => {
    const { client } = world;
    for (const opcode of [
      OP.lookup,
      OP.getattr,
      OP.open,
      OP.opendir,
      OP.readlink,
      OP.mkdir,
      OP.unlink,
      OP.statfs,
    ]) {
      const body = opcode === OP.mkdir ? pack(0o755, 0, 'x') : pack('x', Buffer.alloc(32));
      expect(await client.fails(opcode, node, body)).toBe('ESTALE');
    }
    expect(await client.fails(OP.rename, ROOT, pack(node, 'sub', 'x'))).toBe('ESTALE');
    expect(await client.fails(OP.link, ROOT, pack(node, 'x'))).toBe('ESTALE');
  });

  test.each(FORGED)('the handle %s is nobody’s', async (fh) => {
    const { client } = world;
    const { node } = await client.walk('sub/file');
    expect(await client.fails(OP.read, node, readBody(fh, 0, 10))).toBe('EBADF');
    expect(await client.fails(OP.write, node, writeBody(fh, 0, Buffer.from('x')))).toBe('EBADF');
    expect(await client.fails(OP.release, node, pack(fh, 0, 0, 0n))).toBe('EBADF');
    expect(await client.fails(OP.fsync, node, pack(fh, 0, 0))).toBe('EBADF');
    expect(await client.fails(OP.fallocate, node, pack(fh, 0n, 1n, 0, 0))).toBe('EBADF');
    expect(await client.fails(OP.lseek, node, pack(fh, 0n, 3, 0))).toBe('EBADF');
    expect(await client.fails(OP.readdir, ROOT, pack(fh, 0n, 100, 0, 0n, 0, 0))).toBe('EBADF');
  });

  test('a handle of another file is refused, and one that was closed', async () => {
    const { client } = world;
    const { node } = await client.walk('sub/file');
    const { fh } = await client.open(node, 2);
    const other = await client.create(ROOT, 'other');
    expect(await client.fails(OP.write, other.node, writeBody(fh, 0, Buffer.from('x')))).toBe('EBADF');
    await client.release(node, fh);
    expect(await client.fails(OP.read, node, readBody(fh, 0, 10))).toBe('EBADF');
    const again = await client.open(node, 2);
    expect(again.fh).not.toBe(fh);
    expect(await client.fails(OP.read, node, readBody(fh, 0, 10))).toBe('EBADF');
  });

  test('a node that was forgotten names no other file', async () => {
    const { client, share } = world;
    const { node } = await client.walk('sub/file');
    await client.forget(node, 1);
    expect(await client.fails(OP.getattr, node, pack(0, 0, 0n))).toBe('ESTALE');
    writeFileSync(join(share, 'new'), '');
    expect((await client.lookup(ROOT, 'new')).node).not.toBe(node);
    expect(await client.fails(OP.getattr, node, pack(0, 0, 0n))).toBe('ESTALE');
  });

  test('the root is not forgotten, however often', async () => {
    const { client } = world;
    await client.forget(ROOT, 2n ** 64n - 1n);
    await client.forget(ROOT, 1n);
    expect((await client.getattr(ROOT)).mode & 0o170000).toBe(0o040000);
  });

  test('forgetting more than there was is forgetting all', async () => {
    const { client } = world;
    const { node } = await client.walk('sub/file');
    await client.forget(node, 2n ** 64n - 1n);
    expect(await client.fails(OP.getattr, node, pack(0, 0, 0n))).toBe('ESTALE');
    expect((await client.walk('sub/file')).size).toBe(6);
  });
});

describe('hard links', () => {
  test('to a folder, or into a file, are refused', async () => {
    const { client } = world;
    const sub = await client.lookup(ROOT, 'sub');
    const file = await client.walk('sub/file');
    expect(await client.fails(OP.link, ROOT, pack(sub.node, 'x'))).toBe('EPERM');
    expect(await client.fails(OP.link, file.node, pack(file.node, 'x'))).toBe('ENOTDIR');
  });

  test('of the host to what is outside show that file and no more', async () => {
    const { client, share, outside } = world;
    writeFileSync(join(outside, 'private/other'), 'linked');
    linkSync(join(outside, 'private/other'), join(share, 'linked'));
    const { node } = await client.lookup(ROOT, 'linked');
    expect(await client.fails(OP.lookup, node, pack('..'))).toBe('EINVAL');
    unlinkSync(join(outside, 'private/other'));
  });

  test('do not bring back a file that has no name', async () => {
    const { client, share } = world;
    const { node } = await client.walk('sub/file');
    unlinkSync(join(share, 'sub/file'));
    expect(await client.fails(OP.link, ROOT, pack(node, 'back'))).toBe('ENOENT');
  });
});

describe('a read-only share', () => {
  const CHANGES: readonly (readonly [string, number, Buffer])[] = [
    ['create', OP.create, CREATE('x')],
    ['mknod', OP.mknod, pack(0o100644, 0, 0, 0, 'x')],
    ['mkdir', OP.mkdir, pack(0o755, 0, 'x')],
    ['symlink', OP.symlink, pack('x', 'y')],
    ['unlink', OP.unlink, pack('file')],
    ['rmdir', OP.rmdir, pack('sub')],
    ['rename', OP.rename, pack(ROOT, 'sub', 'x')],
    ['rename2', OP.rename2, pack(ROOT, 0, 0, 'sub', 'x')],
    ['link', OP.link, pack(ROOT, 'x')],
    ['setattr', OP.setattr, pack(1, 0, Buffer.alloc(60), 0o777, 0, 0, 0, 0)],
    ['setxattr', OP.setxattr, pack(1, 0, 'user.x', Buffer.from('y'))],
    ['removexattr', OP.removexattr, pack('user.x')],
    ['write', OP.write, writeBody(0n, 0, Buffer.from('x'))],
    ['fallocate', OP.fallocate, pack(0n, 0n, 1n, 0, 0)],
    ['copy_file_range', OP.copyFileRange, pack(0n, 0n, ROOT, 0n, 0n, 1n, 0n)],
  ];
  let client: FuseClient;
  beforeEach(async () => {
    client = await FuseClient.mount({ path: world.share, readOnly: true });
  });
  afterEach(() => client.close());

  test.each(CHANGES)('refuses %s', async (_, opcode, body) => {
    expect(await client.fails(opcode, ROOT, body)).toBe('EROFS');
  });

  test.each([1, 2, 0o1000, 0o1001])('refuses open with flags %o', async (flags) => {
    const { node } = await client.walk('sub/file');
    expect(await client.fails(OP.open, node, pack(flags, 0))).toBe('EROFS');
  });

  test('is read', async () => {
    const { node } = await client.walk('sub/file');
    const { fh } = await client.open(node);
    expect((await client.read(node, fh, 0, 100)).toString()).toBe('inside');
    expect(await client.fails(OP.write, node, writeBody(fh, 0, Buffer.from('x')))).toBe('EROFS');
  });
});

describe('attributes of the system', () => {
  test.each(['security.capability', 'security.selinux', 'trusted.x', 'system.posix_acl_access', 'userx', ''])(
    '%s are not the guest’s to have',
    async (name) => {
      const { client } = world;
      const { node } = await client.walk('sub/file');
      const error = name === '' ? /EINVAL|EOPNOTSUPP/ : /EOPNOTSUPP/;
      expect(await client.fails(OP.setxattr, node, pack(1, 0, name, Buffer.from('y')))).toMatch(error);
      expect(await client.fails(OP.getxattr, node, pack(0, 0, name))).toMatch(error);
      expect(await client.fails(OP.removexattr, node, pack(name))).toMatch(error);
    },
  );
});

test('a folder whose mode lets nobody in is closed to an unprivileged VMM, or root’s own', async () => {
  const { client, share } = world;
  mkdirSync(join(share, 'closed'), 0o700);
  writeFileSync(join(share, 'closed/file'), '');
  chmodSync(join(share, 'closed'), 0);
  const { node } = await client.lookup(ROOT, 'closed');
  expect(await client.fails(OP.lookup, node, pack('file'))).toBe(isRoot ? 'no error' : 'EACCES');
  chmodSync(join(share, 'closed'), 0o700);
});
