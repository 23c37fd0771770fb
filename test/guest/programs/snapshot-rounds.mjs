// node snapshot-rounds.mjs LIBRARY TSVM KERNEL INITRD FOLDER OPTIONS: a guest under load is saved and goes on, and goes
// on once more from what was saved, round after round. Its last line is what was seen, as JSON.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const [library, tsvm, kernel, initrd, folder, json] = process.argv.slice(2);
const { startVm } = await import(library);
const { rounds, live, incremental, ...options } = JSON.parse(json);

/** What the guest is to have done between two events. */
const STEPS = ['chain', 'disk', 'alive', 'clock'];
const LIMIT_MS = 120_000;

mkdirSync(folder, { recursive: true });
const disk = join(folder, 'disk.qcow2');
const overlay = (layer) => {
  rmSync(disk, { force: true });
  execFileSync('node', [tsvm, 'disk', 'create', disk, '--backing', layer, '--backing-format', 'qcow2']);
};
execFileSync('node', [tsvm, 'disk', 'create', disk, '32M']);

let log = '';
let output = '';
const start = (restore) =>
  startVm({
    ...options,
    kernel,
    initrds: [initrd],
    cmdline: 'console=ttyS0 quiet',
    memory: 256 * 2 ** 20,
    disks: [{ path: disk, format: 'qcow2' }],
    rng: true,
    balloon: {},
    log: (line) => (log += `${line}\n`),
    ...(restore && { restore }),
  });

const last = (word) => Number([...output.matchAll(new RegExp(`^${word} (\\d+)`, 'gm'))].at(-1)?.[1] ?? 0);
const steps = () => Object.fromEntries(STEPS.map((word) => [word, last(word)]));
/** Waits until all that the guest does has gone on from there. */
async function goesOn(from, what) {
  for (const end = performance.now() + LIMIT_MS; performance.now() < end; await sleep(50)) {
    const now = steps();
    if (STEPS.every((word) => now[word] > from[word] + 1)) return;
  }
  throw new Error(`${what}: ${JSON.stringify(from)} became ${JSON.stringify(steps())}`);
}

/** Values of the chain, computed here. */
const chain = ['start'];
function checkChain() {
  for (const [, number, value] of output.matchAll(/^chain (\d+) ([0-9a-f]{64})/gm)) {
    while (chain.length <= Number(number))
      chain.push(
        createHash('sha256')
          .update(`${chain.at(-1)}\n`)
          .digest('hex'),
      );
    if (chain[Number(number)] !== value) throw new Error(`the guest computed wrong: chain ${number}`);
  }
}

const stops = [];
const written = [];
let error;
let vm = await start();
try {
  vm.serial.onData((bytes) => (output += Buffer.from(bytes)));
  await goesOn(steps(), 'after the boot');
  for (let round = 0; round < rounds; round++) {
    const state = join(folder, `state-${round}`);
    const layer = join(folder, `layer-${round}.qcow2`);
    mkdirSync(state);
    const { stopMs, memoryBytes } = await vm.snapshot({
      folder: state,
      live,
      layers: [{ disk: 0, path: layer }],
    });
    stops.push(stopMs);
    written.push(memoryBytes);
    await goesOn(steps(), `round ${round}, after the snapshot`);
    await vm.stop();
    checkChain();
    const found = output.match(/^error.*/gm);
    if (found !== null) throw new Error(`the guest says: ${found.slice(0, 10).join('; ')}`);
    // What it has done since is undone: it goes on in the middle of a line that it had begun by then.
    output = 'rest of a line: ';
    overlay(layer);
    vm = await start({ folder: state, ...(incremental && { keep: join(folder, `keep-${round}`) }) });
    vm.serial.onData((bytes) => (output += Buffer.from(bytes)));
    await goesOn(Object.fromEntries(STEPS.map((word) => [word, 0])), `round ${round}, from the snapshot`);
    await goesOn(steps(), `round ${round}, later`);
    checkChain();
    renameSync(state, `${state}-used`);
    if (round > 0) rmSync(join(folder, `state-${round - 1}-used`), { recursive: true });
  }
} catch (caught) {
  error = caught instanceof Error ? caught.message : String(caught);
}
await vm.stop();
console.log(JSON.stringify({ error, stops, written, log, console: output.slice(-4000), steps: steps() }));
