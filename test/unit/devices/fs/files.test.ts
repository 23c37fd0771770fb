import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { OP } from '../../../../src/devices/fs/protocol.ts';
import { FuseClient, pack, ROOT, type ClientOptions } from '../../../support/virtio/fuse.ts';

const clients: FuseClient[] = [];
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

async function mount(options: ClientOptions = {}): Promise<FuseClient> {
  const client = await FuseClient.mount(options);
  clients.push(client);
  return client;
}

describe('files of a shared folder', () => {
  test('are created, written, read and found on the host', async () => {
    const client = await mount();
    const { node, fh, mode } = await client.create(ROOT, 'new', 2, 0o640);
    expect(mode & 0o7777).toBe(0o640);
    expect(await client.write(node, fh, 3, 'content')).toBe(7);
    expect((await client.read(node, fh, 0, 100)).toString()).toBe('\0\0\0content');
    await client.release(node, fh);
    expect(readFileSync(join(client.path, 'new'), 'latin1')).toBe('\0\0\0content');
    expect(statSync(join(client.path, 'new')).mode & 0o7777).toBe(0o640);
  });

  test('are looked up with their attributes, once each', async () => {
    const client = await mount();
    writeFileSync(join(client.path, 'file'), 'hello');
    const first = await client.lookup(ROOT, 'file');
    const second = await client.lookup(ROOT, 'file');
    expect(second.node).toBe(first.node);
    expect(first.size).toBe(5);
    expect(first.inode).toBe(statSync(join(client.path, 'file'), { bigint: true }).ino);
  });

  test('are listed, with attributes where that is asked for', async () => {
    const client = await mount();
    mkdirSync(join(client.path, 'sub'));
    for (let i = 0; i < 500; i++) writeFileSync(join(client.path, 'sub', `file-${i}`), '');
    const { node } = await client.lookup(ROOT, 'sub');
    const names = await client.list(node);
    expect(names.size).toBe(502);
    const plus = await client.list(node, OP.readdirplus);
    expect([...plus.keys()].sort()).toEqual([...names.keys()].sort());
    expect(plus.get('file-7')).toBe((await client.lookup(node, 'file-7')).node);
    expect(plus.get('..')).toBeUndefined();
  });

  test('unknown ones are told by ENOENT', async () => {
    const client = await mount();
    expect(await client.fails(OP.lookup, ROOT, pack('absent'))).toBe('ENOENT');
  });
});
