// The host's side of the vsock test: does what is asked and prints what happened as one JSON line.
//   node vsock-host.mjs SOCKET echo GUEST_PORT FROM_HOST HOST_PORT FROM_GUEST BYTES    that much each way, each connection
//   node vsock-host.mjs SOCKET refused GUEST_PORT
//   node vsock-host.mjs SOCKET stalled-reader HOST_PORT GUEST_PORT BYTES PID    reads late from a guest that sends BYTES
//   node vsock-host.mjs SOCKET stalled-guest HOST_PORT BYTES PID    sends BYTES to a guest that reads late
//   node vsock-host.mjs SOCKET half HOST_PORT    answers once the guest has ended its half
//   node vsock-host.mjs SOCKET drop HOST_PORT    goes in the middle of what the guest sends
//   node vsock-host.mjs SOCKET hold GUEST_PORT   says how a connection ends that nobody here ends
// It says `ready` on standard error once it listens, and `stalled` once a guest has made it wait.
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const [socket, verb, ...args] = process.argv.slice(2);
const MIB = 2 ** 20;
const STALL_MS = 3000;

const ready = () => process.stderr.write('ready\n');
const md5 = () => createHash('md5');

/** A connection to a port of the guest, after its OK. */
async function toGuest(port) {
  const stream = connect({ path: socket, allowHalfOpen: true });
  await once(stream, 'connect');
  stream.write(`CONNECT ${port}\n`);
  let line = '';
  for (;;) {
    const byte = stream.read(1);
    if (byte === null) {
      if (stream.readableEnded) throw new Error('the connection was refused');
      await Promise.race([once(stream, 'readable'), once(stream, 'end')]);
    } else if (byte[0] === 10) break;
    else line += byte.toString();
  }
  if (!/^OK \d+$/.test(line)) throw new Error(`answered ${line}`);
  return stream;
}

/** Listens for the guest; gives the connections in their order. */
async function fromGuest(port) {
  const path = `${socket}_${port}`;
  rmSync(path, { force: true });
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  const streams = [];
  const waiting = [];
  server.on('connection', (stream) => {
    const first = waiting.shift();
    if (first === undefined) streams.push(stream);
    else first(stream);
  });
  server.listen(path);
  await once(server, 'listening');
  return {
    next: () => {
      const first = streams.shift();
      return first === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(first);
    },
    close: () => server.close(),
  };
}

/** Sends random bytes, reads until the end; true where what came back is what was sent. */
async function echoes(stream, length) {
  const sent = md5();
  const received = md5();
  let count = 0;
  stream.on('data', (bytes) => {
    received.update(bytes);
    count += bytes.length;
  });
  stream.resume();
  const end = once(stream, 'end');
  for (let left = length; left > 0;) {
    const bytes = randomBytes(Math.min(left, 64 * 1024));
    sent.update(bytes);
    left -= bytes.length;
    if (!stream.write(bytes)) await once(stream, 'drain');
  }
  stream.end();
  await end;
  return count === length && sent.digest('hex') === received.digest('hex');
}

async function echo(guestPort, fromHost, hostPort, fromGuestCount, length) {
  const listener = await fromGuest(hostPort);
  ready();
  const opening = [
    ...Array.from({ length: Number(fromHost) }, () => toGuest(guestPort)),
    ...Array.from({ length: Number(fromGuestCount) }, () => listener.next()),
  ];
  // All of them are there before the first byte.
  const streams = await Promise.all(opening);
  const start = performance.now();
  const results = await Promise.all(streams.map((stream) => echoes(stream, Number(length))));
  listener.close();
  const seconds = (performance.now() - start) / 1000;
  return { connections: streams.length, intact: results.filter(Boolean).length, seconds };
}

const refused = (port) =>
  toGuest(port).then(
    () => ({ refused: false }),
    (error) => ({ refused: true, message: error.message }),
  );

const patternAt = (at) => (at * 31 + (at >>> 8) * 17) & 0xff;

/** Memory of the VMM that is its own, in bytes. */
const memoryOf = (pid) =>
  Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;

async function stalledReader(hostPort, guestPort, length, pid) {
  const listener = await fromGuest(hostPort);
  ready();
  const stream = await listener.next();
  const before = memoryOf(pid);
  await sleep(STALL_MS);
  const grown = memoryOf(pid) - before;
  const buffered = stream.bytesRead;
  // Others are not held up.
  const others = await echoes(await toGuest(guestPort), MIB);
  let seen = 0;
  let wrong = 0;
  stream.on('data', (bytes) => {
    for (const byte of bytes) if (byte !== patternAt(seen++)) wrong++;
  });
  stream.resume();
  await once(stream, 'end');
  stream.end();
  listener.close();
  return { expected: Number(length), seen, wrong, buffered, grown, others };
}

async function stalledGuest(hostPort, length, pid) {
  const listener = await fromGuest(hostPort);
  ready();
  const stream = await listener.next();
  stream.resume();
  const before = memoryOf(pid);
  let at = 0;
  let stalledAt;
  for (; at < length; at += MIB) {
    const bytes = new Uint8Array(MIB).map((_, i) => patternAt(at + i));
    if (stream.write(bytes)) continue;
    if (stalledAt === undefined) {
      const drained = once(stream, 'drain').then(() => true);
      if (await Promise.race([drained, sleep(STALL_MS)])) continue;
      const taken = stream.bytesWritten - stream.writableLength;
      stalledAt = { at, taken, grown: memoryOf(pid) - before };
      process.stderr.write('stalled\n');
      await drained;
    } else await once(stream, 'drain');
  }
  stream.end();
  await once(stream, 'close');
  listener.close();
  return { sent: at, stalledAt };
}

async function half(hostPort) {
  const listener = await fromGuest(hostPort);
  ready();
  const stream = await listener.next();
  let heard = 0;
  stream.on('data', (bytes) => (heard += bytes.length));
  stream.resume();
  await once(stream, 'end');
  stream.end(`heard ${heard}`);
  await once(stream, 'close');
  listener.close();
  return { heard };
}

async function drop(hostPort) {
  const listener = await fromGuest(hostPort);
  ready();
  const stream = await listener.next();
  stream.resume();
  await once(stream, 'data');
  stream.destroy();
  listener.close();
  return { dropped: true };
}

async function hold(guestPort) {
  const stream = await toGuest(guestPort);
  stream.write('x');
  await once(stream.resume(), 'data');
  ready();
  await Promise.race([once(stream, 'end'), once(stream, 'error')]);
  return { ended: true };
}

const verbs = {
  echo,
  refused,
  'stalled-reader': stalledReader,
  'stalled-guest': stalledGuest,
  half,
  drop,
  hold,
};
console.log(JSON.stringify(await verbs[verb](...args)));
process.exit(0);
