/**
 * Load for a network: `serve ADDRESS PORT`, or one of `get|put HOST PORT BYTES`, `short HOST PORT COUNT`,
 * `udp HOST PORT SIZE`, which say `good` or `bad` with the time it took.
 *
 * A connection begins with a line: `get BYTES` is answered by so many and their CRC-32, `put BYTES` is followed by
 * them and answered `go` before and `ok` after, `ping` is answered `pong`. Bytes are whole blocks of 64 KiB, each
 * beginning with its number. Datagrams come back. Without the `go`, passt of before April 2023 (Debian 12's) resets a
 * connection whose server has said nothing for 25 s: it takes the handshake for unacknowledged.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createConnection, createServer, isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { crc32 } from 'node:zlib';

const BLOCK = 65536;
const BODY = Buffer.alloc(BLOCK - 8);
for (let x = 0; x < BODY.length; x++) BODY[x] = Math.imul(Math.imul(x, x), 31) + Math.imul(x, 7);

async function send(socket, size) {
  let crc = 0;
  for (let i = 0; i < size / BLOCK; i++) {
    const block = Buffer.alloc(BLOCK);
    block.writeBigUInt64BE(BigInt(i));
    block.set(BODY, 8);
    crc = crc32(block, crc);
    if (!socket.write(block)) await once(socket, 'drain');
  }
  const tail = Buffer.alloc(4);
  tail.writeUInt32BE(crc);
  socket.write(tail);
}

/** Reads `size` bytes and their checksum out of chunks. */
function receiver(size) {
  let crc = 0;
  let got = 0;
  let tail = Buffer.alloc(0);
  return (data) => {
    const content = data.subarray(0, Math.max(0, size - got));
    crc = crc32(content, crc);
    tail = Buffer.concat([tail, data.subarray(content.length)]);
    got += data.length;
    return got < size + 4 ? undefined : tail.length === 4 && tail.readUInt32BE() === crc;
  };
}

function answer(socket) {
  let head = '';
  let take;
  socket.on('error', () => undefined);
  socket.on('data', (data) => {
    let rest = data;
    if (take === undefined) {
      const end = data.indexOf(10);
      head += data.toString('latin1', 0, end < 0 ? data.length : end);
      if (end < 0) return;
      rest = data.subarray(end + 1);
      const [verb, amount] = head.split(' ');
      take = verb === 'put' ? receiver(Number(amount)) : () => undefined;
      if (verb === 'get')
        send(socket, Number(amount)).then(
          () => socket.end(),
          () => undefined,
        );
      if (verb === 'put') socket.write('go\n');
      if (verb === 'ping') socket.end('pong\n');
    }
    const good = rest.length > 0 ? take(rest) : undefined;
    if (good !== undefined) socket.end(good ? 'ok\n' : 'bad\n');
  });
}

async function serve(address, port) {
  const server = createServer(answer);
  server.listen(Number(port), address);
  await once(server, 'listening');
  const echo = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  echo.on('message', (data, { address: from, port: fromPort }) => echo.send(data, fromPort, from));
  echo.bind(Number(port), address);
  await once(echo, 'listening');
  console.log('serving');
}

async function ask(host, port, line, more) {
  const socket = createConnection(Number(port), host);
  await once(socket, 'connect');
  socket.write(`${line}\n`);
  const chunks = [];
  const closed = once(socket, 'end');
  socket.on('data', (data) => chunks.push(data));
  if (more !== undefined) {
    await once(socket, 'data');
    await send(socket, more);
  }
  await closed;
  socket.destroy();
  return Buffer.concat(chunks).toString();
}

async function get(host, port, size) {
  const socket = createConnection(Number(port), host);
  const take = receiver(size);
  socket.write(`get ${size}\n`);
  for await (const data of socket) {
    const good = take(data);
    if (good !== undefined) return good;
  }
  return false;
}

async function udp(host, port, size) {
  const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
  const data = Buffer.alloc(size);
  const back = once(socket, 'message').then(([message]) => message.equals(data));
  for (let i = 0; i < 5; i++) {
    socket.send(data, Number(port), host);
    const good = await Promise.race([back, sleep(2000)]);
    if (good !== undefined) return good;
  }
  return false;
}

const [verb, host, port, amount] = process.argv.slice(2);
if (verb === 'serve') await serve(host, port);
else {
  const start = performance.now();
  let good = true;
  if (verb === 'get') good = await get(host, port, Number(amount));
  else if (verb === 'put') good = (await ask(host, port, `put ${amount}`, Number(amount))) === 'go\nok\n';
  else if (verb === 'udp') good = await udp(host, port, Number(amount));
  else for (let i = 0; i < Number(amount); i++) good &&= (await ask(host, port, 'ping')) === 'pong\n';
  console.log(good ? 'good' : 'bad', ((performance.now() - start) / 1000).toFixed(2), 's');
  process.exit(0);
}
