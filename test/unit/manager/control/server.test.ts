/** How the control API's server ends with clients that it serves nothing, or that do not go. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { STREAM_PATH, STREAM_PROTOCOL } from '../../../../src/manager/control/frames.ts';
import type { ControlledVm } from '../../../../src/manager/control/routes.ts';
import { ControlServer } from '../../../../src/manager/control/server.ts';

let folder: string;
let path: string;
let server: ControlServer;
let streams: number;
let clients: Socket[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-control-'));
  path = join(folder, 'control.sock');
  streams = 0;
  clients = [];
  // Nothing here gets as far as a machine.
  const vm: Pick<ControlledVm, 'stream'> = { stream: () => (streams += 1) };
  server = await ControlServer.listen(path, vm as ControlledVm);
});
afterEach(() => {
  for (const client of clients) client.destroy();
  rmSync(folder, { recursive: true, force: true });
});

/** A client that keeps its side open, whatever it is told. */
function ask(text: string): Socket {
  const client = connect({ path, allowHalfOpen: true });
  clients.push(client);
  client.on('error', () => undefined);
  client.write(text);
  return client;
}

const upgrade = (protocol: string): string =>
  `POST ${STREAM_PATH} HTTP/1.1\r\nhost: vm\r\nconnection: upgrade\r\nupgrade: ${protocol}\r\n\r\n`;

it.each([
  ['asks for another protocol', upgrade('h2c'), 404],
  ['does not speak HTTP', 'hello\r\n\r\n', 400],
])('has no connection left to one that %s', async (_, text, status) => {
  const client = ask(text);
  const [said] = (await once(client, 'data')) as [Buffer];
  expect(said.toString()).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  await once(client, 'end');
  // A half that was left open at the other side would take what is said here.
  await expect(
    (async () => {
      for (;;)
        await new Promise<void>((resolve, reject) => client.write('x', (e) => (e ? reject(e) : resolve())));
    })(),
  ).rejects.toMatchObject({ code: 'EPIPE' });
  await server.close();
});

it('ends while streams are open that nobody reads', async () => {
  const client = ask(upgrade(STREAM_PROTOCOL));
  const [said] = (await once(client, 'data')) as [Buffer];
  expect([said.toString().slice(0, 12), streams]).toEqual(['HTTP/1.1 101', 1]);
  const ended = once(client, 'end');
  await server.close();
  await ended;
});
