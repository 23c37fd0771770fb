// Boots a guest, gives it another VM generation id twice, pressing the power button in between, and has a copy of it go
// on from what was saved; prints what both said as one JSON line.
// `node vm-generation.mjs LIBRARY KERNEL INITRD FOLDER`
import { randomUUID } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const [library, kernel, initrd, folder] = process.argv.slice(2);
const { startVm } = await import(library);

const options = {
  kernel,
  initrds: [initrd],
  cmdline: 'console=ttyS0 quiet panic=-1',
  memory: 256 * 2 ** 20,
  cpus: 2,
  noReboot: true,
};
let serial = '';
let ended = false;

async function start(more) {
  const vm = await startVm({ ...options, ...more });
  setTimeout(() => void vm.stop(), 200_000).unref();
  vm.serial.onData((bytes) => {
    serial += Buffer.from(bytes).toString();
  });
  void vm.exited.then(() => (ended = true));
  return vm;
}

/** Resolves once the guest has said it, or after a minute. @throws Error where the VM has ended */
async function said(text) {
  for (
    const end = performance.now() + 60_000;
    !serial.includes(text) && performance.now() < end;
    await sleep(50)
  ) {
    if (ended) throw new Error(`the VM has ended: ${serial}`);
  }
}

const vm = await start();
await said('ready');
vm.newGeneration();
await said('forks=1');
vm.powerButton();
await said('buttons=1');
vm.newGeneration();
await said('forks=2');
mkdirSync(folder);
try {
  await vm.snapshot({ folder, stop: true });
  await vm.stop();
  const copy = await start({ restore: { folder, generation: randomUUID() } });
  const { reason } = await copy.exited;
  console.log(JSON.stringify({ reason, serial }));
} finally {
  rmSync(folder, { recursive: true });
}
