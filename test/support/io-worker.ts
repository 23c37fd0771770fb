/** A worker, or a process, that is ended while its rings are at work. Tells when they are. */
import { closeSync, constants, openSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { GuestRam } from '../../src/kvm/memory.ts';
import { IO, IoRing, type IoEngine, type IoOwner } from '../../src/kvm/io-ring.ts';
import { IoVector } from '../../src/kvm/io-vector.ts';

export type IoTask = {
  readonly engine: IoEngine;
  readonly path: string;
  /** what happens after `rounds` completions; nothing: it goes on until it is terminated */
  readonly end?: 'exit' | 'throw' | 'drop';
  readonly rounds: number;
};

const SIZE = 2 ** 20;

export function load({ engine, path, end, rounds }: IoTask, ready: () => void): void {
  const ram = new GuestRam({ ranges: [{ base: 0, size: 16 * SIZE }] });
  const ring = new IoRing({ engine, entries: 32 });
  const buffer = ring.register(ram.memory.windows[0]!.bytes);
  const cached = openSync(path, constants.O_RDWR);
  const direct = openSync(path, constants.O_RDWR | constants.O_DIRECT);
  const vector = new IoVector();
  let done = 0;
  const post = (cookie: number): void => {
    const operation = ([IO.read, IO.write, IO.read, IO.sync] as const)[cookie % 4]!;
    vector.clear();
    for (let at = 0; at < SIZE; at += 65536) vector.add(buffer, (cookie % 16) * SIZE + at, 65536);
    ring.queue(operation, cookie % 8 < 4 ? direct : cached, (cookie % 7) * SIZE, 0, vector, owner, cookie);
  };
  const owner: IoOwner = {
    completed: (cookie) => {
      if (++done === 50) ready();
      if (end === 'exit' && done === rounds) process.exit(0);
      if (end === 'throw' && done === rounds) throw new Error('a bug in the device');
      if (end === 'drop' && done > rounds) return;
      post(cookie + 1);
    },
    batchEnd: () => ring.submit(),
  };
  for (let i = 0; i < 64; i++) post(i);
  ring.submit();
  process.on('exit', () => {
    closeSync(cached);
    closeSync(direct);
  });
}

if (parentPort !== null) {
  const port = parentPort;
  load(workerData as IoTask, () => port.postMessage('running'));
}
