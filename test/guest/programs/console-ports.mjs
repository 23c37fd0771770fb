// Boots a guest with hvc0 and a named port, talks with it, has a client of the port stall, and prints what happened as
// one JSON line. `node console-ports.mjs LIBRARY KERNEL INITRD TRANSPORT SOCKET`
import { connect } from 'node:net';

const [library, kernel, initrd, transport, socket] = process.argv.slice(2);
const { startVm } = await import(library);

const vm = await startVm({
  kernel,
  initrds: [initrd],
  cmdline: 'console=ttyS0 quiet panic=-1',
  memory: 256 * 2 ** 20,
  noReboot: true,
  console: 'hvc0',
  transport,
  ports: [{ name: 'org.example.test', path: socket }],
  log: (line) => console.error(line),
});
setTimeout(() => void vm.stop(), 90_000).unref();

const seen = { serial: '', hvc0: '', port: '', flood: 0 };
let wake = () => undefined;
vm.serial.onData((bytes) => {
  seen.serial += Buffer.from(bytes).toString();
  wake();
});
vm.console.onData((bytes) => {
  seen.hvc0 += Buffer.from(bytes).toString();
  wake();
});

/** Resolves once it holds, or the VM has ended. */
async function until(condition) {
  let ended = false;
  void vm.exited.then(() => {
    ended = true;
    wake();
  });
  while (!condition() && !ended) await new Promise((resolve) => (wake = resolve));
}

const client = connect(socket);
client.on('data', (bytes) => {
  if (seen.port.includes('\n')) seen.flood += bytes.length;
  else seen.port += bytes.toString();
  wake();
});
client.on('error', () => undefined);
client.on('close', () => wake());

await until(() => seen.serial.includes('ready'));
vm.resizeConsole(100, 40);
await until(() => seen.serial.includes('size='));
client.write('from the host\n');
await until(() => seen.port.includes('\n'));
await until(() => seen.hvc0.includes('on hvc0'));
await vm.console.write('typed\n').catch(() => undefined);
await until(() => seen.serial.includes('typed='));

client.pause();
client.write('flood\n');
// The guest's other work goes on meanwhile.
await until(() => seen.serial.includes('alive=3'));
const stalled = { done: seen.serial.includes('flood=done'), heard: seen.flood };
client.resume();
await until(() => seen.serial.includes('flood=done') && seen.flood >= 8 * 2 ** 20);
client.destroy();
const { reason, message, report } = await vm.exited;
console.log(JSON.stringify({ reason, message, report, stalled, ...seen }));
