// Boots a guest with a card on a tap, which is made and put on the bridge of this network namespace, talks with it both
// ways, pulls its cable and plugs it in again, and prints what happened as one JSON line.
// `unshare -n node tap-network.mjs LIBRARY KERNEL INITRD`
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { connect, createServer } from 'node:net';

const [library, kernel, initrd] = process.argv.slice(2);
const { startVm } = await import(library);
const ip = (...args) => execFileSync('ip', args, { encoding: 'utf8' });

ip('link', 'set', 'lo', 'up');
ip('link', 'add', 'br0', 'type', 'bridge');
ip('addr', 'add', '10.99.0.1/24', 'dev', 'br0');
ip('link', 'set', 'br0', 'up');

const SIZE = 8 * 2 ** 20;
const data = randomBytes(SIZE);
const hash = (bytes) => createHash('sha256').update(bytes).digest('hex');
const seen = { serial: '', toGuest: hash(data), fromGuest: '', connected: false };

const gives = createServer((socket) => socket.end(data)).listen(5001, '10.99.0.1');
const takes = createServer((socket) => {
  const sum = createHash('sha256');
  socket.on('data', (bytes) => sum.update(bytes));
  socket.on('end', () => {
    seen.fromGuest = sum.digest('hex');
    socket.end();
  });
}).listen(5002, '10.99.0.1');

const lines = [];
const vm = await startVm({
  kernel,
  initrds: [initrd],
  cmdline: 'console=ttyS0 quiet panic=-1',
  memory: 512 * 2 ** 20,
  cpus: 2,
  noReboot: true,
  networks: [{ kind: 'tap', bridge: 'br0', queues: 2, mac: '52:54:00:aa:bb:cc' }],
  log: (line) => lines.push(line),
});
setTimeout(() => void vm.stop(), 200_000).unref();

let ended = false;
let wake = () => undefined;
vm.serial.onData((bytes) => {
  seen.serial += Buffer.from(bytes).toString();
  wake();
});
void vm.exited.then(() => {
  ended = true;
  wake();
});

/** Resolves once the guest has said it, or the VM has ended. */
async function said(text) {
  while (!seen.serial.includes(text) && !ended) await new Promise((resolve) => (wake = resolve));
}

await said('listening');
await new Promise((resolve) => {
  const socket = connect(5003, '10.99.0.2', () => socket.end(data));
  socket.on('close', () => resolve(undefined));
  socket.on('error', (error) => lines.push(String(error)));
});
await said('carrier=1');
const tap = vm.networks[0].name.split(' ')[1];
const ports = ip('-o', 'link', 'show', 'master', 'br0').includes(tap);
vm.setLink(0, false);
await said('carrier=0');
vm.setLink(0, true);
const { reason } = await vm.exited;
const [card] = vm.networks;
gives.close();
takes.close();
await new Promise((resolve) => setTimeout(resolve, 100));
const left = ip('-o', 'link').includes(tap);
console.log(JSON.stringify({ ...seen, reason, ports, left, card, lines }));
