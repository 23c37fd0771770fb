/**
 * A process that goes to jail, with threads of all kinds in it already, and tells what it can do there.
 * Arguments: a folder to write to, a file that is not allowed, the library of calls.c.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { confineToPaths, filterSystemCalls, limitResources, reserveRings } from '../../../src/kvm/jail.ts';
import { IoRing } from '../../../src/kvm/io-ring.ts';

const [folder = '', secret = '', library = ''] = process.argv.slice(2);

const worker = new Worker(
  `const { parentPort, workerData } = require('node:worker_threads');
   parentPort.on('message', () => {
     try {
       parentPort.postMessage(require('node:fs').readFileSync(workerData, 'utf8'));
     } catch (error) {
       parentPort.postMessage(error.code);
     }
   });`,
  { eval: true, workerData: secret },
);
await once(worker, 'online');
// The thread pool has its threads from the first use on.
await Promise.all(Array.from({ length: 8 }, () => readFile(secret)));

reserveRings(1, 512);
const files = limitResources(512);
const abi = confineToPaths([
  { path: folder, access: 'write' },
  { path: library, access: 'read' },
  { path: '/proc/self', access: 'read' },
]);
filterSystemCalls();

const told: Record<string, unknown> = { abi, files };

async function attempt(name: string, work: () => unknown): Promise<void> {
  try {
    await work();
    told[name] = 'done';
  } catch (error) {
    told[name] = error instanceof Error && 'code' in error ? error.code : String(error);
  }
}

await attempt('reads the secret', () => readFileSync(secret));
await Promise.all(
  Array.from({ length: 8 }, (_, i) => attempt(`reads it in the pool, ${i}`, () => readFile(secret))),
);
worker.postMessage('read');
[told['reads it in a worker']] = (await once(worker, 'message')) as [unknown];
await attempt('lists a folder above', () => readFileSync(dirname(folder)));
await attempt('writes beside its folder', () => writeFileSync(`${folder}.new`, ''));
await attempt('makes an executable run', () => {
  const { error } = spawnSync('/bin/true');
  if (error !== undefined) throw error;
});
await attempt('listens on TCP', async () => {
  await once(createServer().listen(0, '127.0.0.1'), 'listening');
});

await attempt('writes in its folder', () => {
  mkdirSync(join(folder, 'a'));
  mkdirSync(join(folder, 'b'));
  writeFileSync(join(folder, 'a/file'), 'text');
  renameSync(join(folder, 'a/file'), join(folder, 'b/file'));
});
await attempt('listens and connects on a unix socket', async () => {
  const server = createServer().listen(join(folder, 'socket'));
  await once(server, 'listening');
  await once(connect(join(folder, 'socket')), 'connect');
});
await attempt('reads with a worker of its own', async () => {
  const reader = new Worker(
    `require('node:worker_threads').parentPort.postMessage(require('node:fs').readFileSync(${JSON.stringify(join(folder, 'b/file'))}, 'utf8'))`,
    { eval: true, execArgv: [] },
  );
  const [text] = (await once(reader, 'message')) as [unknown];
  if (text !== 'text') throw new Error(`read ${String(text)}`);
});
told['ring'] = new IoRing().engine;
told['second ring'] = new IoRing().engine;
told['status'] = Object.fromEntries(
  [...readFileSync('/proc/self/status', 'utf8').matchAll(/^(NoNewPrivs|Seccomp):\s*(\d)$/gm)].map(
    ([, name, value]) => [name, Number(value)],
  ),
);
process.stdout.write(`${JSON.stringify(told)}\n`);
try {
  process.dlopen({ exports: {} }, library);
} catch {
  // It is no addon; it has run all the same.
}
process.exit(0);
