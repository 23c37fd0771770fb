import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { OP } from '../../../../src/devices/fs/protocol.ts';
import {
  FuseClient,
  pack,
  readBody,
  ROOT,
  writeBody,
  type ClientOptions,
} from '../../../support/virtio/fuse.ts';

const clients: FuseClient[] = [];
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

async function mount(options: ClientOptions = {}): Promise<FuseClient> {
  const client = await FuseClient.mount(options);
  clients.push(client);
  return client;
}

const FLAG = {
  asyncRead: 1,
  posixLocks: 2,
  writeback: 1 << 16,
  autoInval: 1 << 12,
  readdirplus: 1 << 13,
  posixAcl: 1 << 20,
};

describe('INIT', () => {
  test('agrees on version 7.38 and on 1 MiB a request', async () => {
    const client = await mount({ mounts: false });
    const body = await client.init();
    expect([body.readUInt32LE(0), body.readUInt32LE(4)]).toEqual([7, 38]);
    expect(body.readUInt32LE(20)).toBe(1 << 20);
    expect(body.readUInt16LE(28)).toBe(256);
    expect(body.readUInt32LE(24)).toBe(1);
  });

  test.each([
    ['auto', FLAG.autoInval, FLAG.writeback],
    ['none', FLAG.autoInval, FLAG.writeback],
    ['always', FLAG.writeback, FLAG.autoInval],
  ] as const)(
    'with cache=%s takes what fits it, and no locks and lists of the host',
    async (cache, has, not) => {
      const client = await mount({ mounts: false, cache });
      const flags = (await client.init()).readUInt32LE(12);
      expect(flags & has).toBe(has);
      expect(flags & (not | FLAG.posixLocks | FLAG.posixAcl)).toBe(0);
    },
  );

  test('takes no flag that was not offered', async () => {
    const client = await mount({ mounts: false });
    expect((await client.init(FLAG.asyncRead)).readUInt32LE(12)).toBe(FLAG.asyncRead);
  });

  test('of an older protocol is refused, of a later one answered with ours', async () => {
    const client = await mount({ mounts: false });
    expect(await client.fails(OP.init, 0n, pack(7, 30, 0, 0))).toBe('EPROTO');
    expect(await client.fails(OP.init, 0n, pack(6, 99, 0, 0))).toBe('EPROTO');
    const later = await client.must(OP.init, 0n, pack(8, 0, 0, 0));
    expect([later.readUInt32LE(0), later.readUInt32LE(12)]).toEqual([7, 0]);
    expect(await client.fails(OP.getattr, ROOT, pack(0, 0, 0n))).toBe('EIO');
  });

  test('comes first', async () => {
    const client = await mount({ mounts: false });
    expect(await client.fails(OP.lookup, ROOT, pack('x'))).toBe('EIO');
  });

  test('once more, after DESTROY, begins anew', async () => {
    const client = await mount();
    const { node, fh } = await client.create(ROOT, 'file');
    await client.must(OP.destroy, 0n);
    expect(await client.fails(OP.getattr, ROOT, pack(0, 0, 0n))).toBe('EIO');
    await client.init();
    expect(await client.fails(OP.read, node, readBody(fh, 0, 1))).toBe('ESTALE');
    expect((await client.lookup(ROOT, 'file')).node).not.toBe(node);
  });
});

describe('a malformed request', () => {
  test.each([0, 1, 39, 41, 1000, 0xffff_ffff])(
    'whose header tells a length of %i is refused',
    async (length) => {
      const client = await mount();
      const { reply, written } = await client.raw([
        { bytes: client.header(OP.statfs, ROOT, new Uint8Array(0), length) },
        { room: 200 },
      ]);
      expect([written, reply.readInt32LE(4)]).toEqual([16, -22]);
    },
  );

  test.each([1, 8, 39])('of %i bytes is not answered', async (length) => {
    const client = await mount();
    const { written } = await client.raw([
      { bytes: client.header(OP.statfs, ROOT, new Uint8Array(0)).subarray(0, length) },
      { room: 200 },
    ]);
    expect(written).toBe(0);
  });

  test.each([7, 19, 31, 32, 33, 37, 39, 40, 41, 48, 49, 51, 52, 4096, 0xffff_ffff])(
    'of the opcode %i, which is not there, is told so',
    async (opcode) => {
      const client = await mount();
      expect(await client.fails(opcode, ROOT, Buffer.alloc(64))).toBe('ENOSYS');
    },
  );

  test('for whose answer there is no room does nothing', async () => {
    const client = await mount();
    for (const room of [0, 8, 15, 16, 100]) {
      const { written } = await client.raw([
        { bytes: client.header(OP.mkdir, ROOT, pack(0o755, 0, 'made')) },
        ...(room > 0 ? [{ room }] : []),
      ]);
      expect(written).toBe(room < 16 ? 0 : 16);
    }
    expect(await client.fails(OP.lookup, ROOT, pack('made'))).toBe('ENOENT');
  });

  test.each(
    Object.entries(OP).filter(([name]) => !['forget', 'batchForget', 'interrupt', 'destroy'].includes(name)),
  )('%s with nothing behind its header is no crash', async (_, opcode) => {
    const client = await mount();
    expect((await client.ask(opcode, ROOT, new Uint8Array(0))).error).not.toBe('EIO');
    expect((await client.getattr(ROOT)).mode & 0o170000).toBe(0o040000);
  });

  test('in many small pieces is read as one', async () => {
    const client = await mount();
    writeFileSync(join(client.path, 'file'), 'x');
    const bytes = client.header(OP.lookup, ROOT, pack('file'));
    const { reply } = await client.raw([
      ...Array.from({ length: 5 }, (_, i) => ({ bytes: bytes.subarray(9 * i, 9 * i + 9) })),
      { room: 7 },
      { room: 100 },
      { room: 100 },
    ]);
    expect(reply.readInt32LE(4)).toBe(0);
  });
});

describe('READ and WRITE', () => {
  test('of more than there is room, data, or sense are refused', async () => {
    const client = await mount();
    const { node, fh } = await client.create(ROOT, 'file');
    expect(await client.fails(OP.read, node, readBody(fh, 0, 100), 99)).toBe('EINVAL');
    expect(await client.fails(OP.read, node, readBody(fh, 0, (1 << 20) + 1))).toBe('EINVAL');
    expect(await client.fails(OP.read, node, readBody(fh, 2n ** 63n, 1), 1)).toBe('EINVAL');
    expect(await client.fails(OP.write, node, pack(fh, 0n, 100, 0, 0n, 0, 0, Buffer.alloc(99)))).toBe(
      'EINVAL',
    );
    expect(await client.fails(OP.write, node, writeBody(fh, 2n ** 64n - 1n, Buffer.from('x')))).toBe(
      'EINVAL',
    );
  });

  test('of nothing move nothing', async () => {
    const client = await mount();
    const { node, fh } = await client.create(ROOT, 'file');
    expect((await client.read(node, fh, 0, 0)).length).toBe(0);
    expect(await client.write(node, fh, 0, '')).toBe(0);
  });

  test('go by the mode that the file was opened in', async () => {
    const client = await mount();
    const { node } = await client.create(ROOT, 'file');
    const reader = await client.open(node, 0);
    const writer = await client.open(node, 1);
    expect(await client.fails(OP.write, node, writeBody(reader.fh, 0, Buffer.from('x')))).toBe('EBADF');
    expect(await client.fails(OP.read, node, readBody(writer.fh, 0, 1))).toBe('EBADF');
  });

  test('with O_APPEND write to the end as it is on the host, but for pages that are written back', async () => {
    const client = await mount();
    writeFileSync(join(client.path, 'log'), 'host;');
    const { node } = await client.lookup(ROOT, 'log');
    const { fh } = await client.open(node, 1 | 0o2000);
    await client.write(node, fh, 0, 'guest;', 0o2000);
    writeFileSync(join(client.path, 'log'), 'again;', { flag: 'a' });
    await client.write(node, fh, 0, 'end', 0o2000);
    const back = writeBody(fh, 0, Buffer.from('H'), 0o2000, 1);
    await client.must(OP.write, node, back);
    const { fh: reader } = await client.open(node, 0);
    expect((await client.read(node, reader, 0, 100)).toString()).toBe('Host;guest;again;end');
  });
});

describe('what the guest may trust', () => {
  test.each([
    ['none', 0],
    ['auto', 1],
    ['always', 86_400],
  ] as const)('with cache=%s is %i seconds old at most', async (cache, seconds) => {
    const client = await mount({ cache });
    mkdirSync(join(client.path, 'x'));
    const entry = await client.lookup(ROOT, 'x');
    expect([entry.entryValid, entry.attrValid]).toEqual([seconds, seconds]);
  });

  test('with cache=auto is a file’s contents where it has not changed since it was last open', async () => {
    const client = await mount();
    const { utimesSync } = await import('node:fs');
    const KEEP = 2;
    writeFileSync(join(client.path, 'file'), 'one');
    const { node } = await client.lookup(ROOT, 'file');
    expect((await client.open(node)).flags & KEEP).toBe(0);
    // Its change is less than a second old, and another one could have the same time.
    expect((await client.open(node)).flags & KEEP).toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 2100));
    expect((await client.open(node)).flags & KEEP).toBe(0);
    expect((await client.open(node)).flags & KEEP).toBe(KEEP);
    writeFileSync(join(client.path, 'file'), 'two');
    utimesSync(join(client.path, 'file'), 1, 1);
    expect((await client.open(node)).flags & KEEP).toBe(0);
  });
});

describe('owners', () => {
  const own = process.getuid?.() ?? 0;

  test('of this user’s files are the guest’s user that was chosen, and others nobody', async () => {
    const client = await mount({ uid: 1234, gid: 2345 });
    const entry = await client.create(ROOT, 'file');
    expect([entry.uid, entry.gid]).toEqual([1234, 2345]);
    const setattr = (uid: number): Promise<string> =>
      client.fails(OP.setattr, entry.node, pack(2, 0, Buffer.alloc(68), uid, 0, 0));
    expect(await setattr(1234)).toBe('no error');
    expect(await setattr(0)).toBe('EPERM');
    expect(await setattr(4321)).toBe('EPERM');
  });

  test.skipIf(own !== 0)('are the same in both where root runs it (needs root)', async () => {
    const client = await mount();
    client.uid = 1000;
    client.gid = 1001;
    const entry = await client.create(ROOT, 'file');
    expect([entry.uid, entry.gid]).toEqual([1000, 1001]);
    await client.must(OP.setattr, entry.node, pack(2, 0, Buffer.alloc(68), 77, 0, 0));
    expect((await client.getattr(entry.node)).uid).toBe(77);
  });
});

describe('files that may be open', () => {
  test('are limited: beyond that there is ENFILE, one line in the log, and no crash', async () => {
    const { FileBudget } = await import('../../../../src/devices/fs/folder.ts');
    const client = await mount({ budget: new FileBudget(20) });
    for (let i = 0; i < 30; i++) writeFileSync(join(client.path, `f${i}`), '');
    const first = await client.lookup(ROOT, 'f0');
    const answers: (string | undefined)[] = [];
    for (let i = 0; i < 30; i++) answers.push((await client.ask(OP.lookup, ROOT, pack(`f${i}`))).error);
    expect(answers.filter((error) => error === 'ENFILE')).toHaveLength(10);
    expect(client.fixture.lines).toHaveLength(1);
    expect(client.fixture.lines[0]).toMatch(/ulimit/);
    await client.forget(first.node, 100);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect((await client.ask(OP.lookup, ROOT, pack('f29'))).error).toBeUndefined();
  });
});
