/** Bytes of all kinds on the sockets of a running VM's process. */
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Random } from '../fuzz/random.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

/** Nothing among them that ends, stops or resets the VM, which would be right and no sign of anything. */
const PATHS = [
  '/v1/vm',
  '/v1/metrics',
  '/v1/console',
  '/v1/console?lines=0',
  '/v1/balloon',
  '/v1/agent/exec',
];
const ODD_PATHS = [
  '*',
  '/',
  '//',
  '/%',
  '/%00',
  '/v1/disks/99/size',
  '/../../etc/passwd',
  'http://[',
  'a:b:c',
];
const METHODS = [
  'GET',
  'POST',
  'PUT',
  'HEAD',
  'DELETE',
  'OPTIONS',
  'CONNECT',
  'TRACE',
  'PRI',
  'get',
  'X'.repeat(500),
];
const HEADERS = [
  'host: vm',
  'host:',
  'content-length: 5',
  'content-length: 99999999999999999999',
  'content-length: -1',
  'content-length: 1\r\ncontent-length: 2',
  'transfer-encoding: chunked',
  'transfer-encoding: chunked, gzip',
  'connection: upgrade\r\nupgrade: tsvm-exec',
  'connection: upgrade\r\nupgrade: h2c',
  'expect: 100-continue',
  'expect: the worst',
  `x: ${'y'.repeat(20_000)}`,
  'a b: c',
  ' folded',
  '\0: \0',
];
const BODIES = [
  '',
  '{}',
  '{"size":1e400}',
  '{"text":"\\ud800"}',
  '['.repeat(5000),
  '5\r\n{"a":\r\n0\r\n\r\n',
  'ffffffffffffffff\r\n',
  '\x04\0\0\0\x02{}',
  '\x01\x7f\xff\xff\xff',
];

function request(random: Random): Buffer {
  if (random.oneIn(6)) return Buffer.from(random.fill(Buffer.alloc(random.between(1, 2000))));
  const path = random.oneIn(3) ? random.pick(ODD_PATHS) : random.pick(PATHS);
  const headers = Array.from({ length: random.below(4) }, () => `${random.pick(HEADERS)}\r\n`).join('');
  const version = random.oneIn(8) ? random.pick(['HTTP/0.9', 'HTTP/2.0', '']) : 'HTTP/1.1';
  const text = `${random.pick(METHODS)} ${path} ${version}\r\n${headers}\r\n${random.pick(BODIES)}`;
  const bytes = Buffer.from(text, 'latin1');
  if (random.oneIn(4)) bytes[random.below(bytes.length)] = random.below(256);
  return random.oneIn(4) ? bytes.subarray(0, random.below(bytes.length)) : bytes;
}

/** Says it in one piece or two, and goes in one of the ways in which clients go. */
async function say(socket: string, bytes: Buffer, random: Random): Promise<void> {
  const client = connect(socket);
  client.on('error', () => undefined);
  client.resume();
  const cut = random.oneIn(2) ? random.below(bytes.length + 1) : bytes.length;
  client.write(bytes.subarray(0, cut));
  if (cut < bytes.length) {
    await sleep(1);
    client.write(bytes.subarray(cut));
  }
  if (random.oneIn(2)) client.end();
  await sleep(random.below(8));
  client.destroy();
}

test('no bytes on its sockets end a VM, and it answers as before', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  const run = join(home.env.TSVM_HOME, 'vms/web/run');
  const random = new Random(20);
  for (let round = 0; round < 60; round++) {
    const clients = Array.from({ length: 10 }, () =>
      say(join(run, random.oneIn(10) ? 'console.sock' : 'control.sock'), request(random), random),
    );
    await Promise.all(clients);
  }
  expect(await home.state('web')).toBe('running');
  expect(JSON.parse(await home.ok('info', '--json', 'web'))).toMatchObject({ state: 'running' });
  const [row] = JSON.parse(await home.ok('top', '--json')) as { name: string; resident: number }[];
  // Nothing that was said is kept: the whole of it is some MB.
  expect(row).toMatchObject({ name: 'web' });
  expect(row!.resident).toBeLessThan(512 * 2 ** 20);
  expect(await home.ok('logs', '--process', 'web')).not.toMatch(/ended|failed/);
  await home.ok('stop', 'web');
  expect(await home.state('web')).toBe('stopped');
}, 120_000);
