// Boots a guest with a balloon and an entropy device, has it free memory and fill its balloon, and prints what that did
// to this process as one JSON line. `node give-back.mjs LIBRARY KERNEL INITRD`
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const [library, kernel, initrd] = process.argv.slice(2);
const { startVm } = await import(library);
const MIB = 2 ** 20;
/** no other mapping of this process is so large */
const MEMORY = 307 * MIB;
const BALLOON = 160 * MIB;

const log = [];
const vm = await startVm({
  kernel,
  initrds: [initrd],
  cmdline: 'console=ttyS0 quiet panic=-1',
  memory: MEMORY,
  noReboot: true,
  rng: true,
  balloon: {},
  log: (line) => log.push(line),
});
setTimeout(() => void vm.stop(), 200_000).unref();

let serial = '';
vm.serial.onData((bytes) => {
  serial += Buffer.from(bytes).toString();
});

let ended = false;
void vm.exited.then(() => (ended = true));
const seen = {};
await until(() => serial.includes('filled'));
seen.filled = resident();
await vm.serial.write('free\n');
await until(() => serial.includes('freed') && resident() < seen.filled - 80 * MIB);
seen.freed = resident();
vm.balloon.resize(BALLOON);
await until(() => vm.balloon.actual === BALLOON);
seen.inflated = vm.balloon.actual;
seen.statistics = await vm.balloon.statistics();
vm.balloon.resize(0);
await until(() => vm.balloon.actual === 0);
seen.deflated = vm.balloon.actual;
seen.after = await vm.balloon.statistics();
await vm.serial.write('done\n');
const { reason } = await vm.exited;
console.log(JSON.stringify({ reason, ...seen, serial, log }));

/** Resolves once it holds, or after a minute. @throws Error where the VM has ended */
async function until(condition) {
  for (const end = performance.now() + 60_000; !condition() && performance.now() < end; await sleep(50)) {
    if (ended) throw new Error(`the VM has ended: ${JSON.stringify({ ...seen, serial, log })}`);
  }
}

/** Bytes of the guest's RAM that are in the host's memory. */
function resident() {
  for (const part of readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    if (new RegExp(`^Size: +${MEMORY / 1024} kB$`, 'm').test(part)) {
      return Number(/^Rss: +(\d+) kB$/m.exec(part)[1]) * 1024;
    }
  }
  throw new Error('the guest has no memory');
}
