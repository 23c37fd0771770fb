import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { bundleScript } from '../support/bundle-script.ts';
import { resources } from '../support/resources.ts';
import type { WorkerTask } from '../support/kvm-worker.ts';

let file: string;
beforeAll(async () => {
  file = await bundleScript(`import './test/support/kvm-worker.ts';`);
});

const start = (task: WorkerTask): Worker => new Worker(file, { workerData: task, execArgv: [] });

/** Until `count` messages are there; an error of the worker is thrown. */
async function messages(worker: Worker, count: number): Promise<unknown[]> {
  const seen: unknown[] = [];
  await new Promise<void>((resolve, reject) => {
    worker.on('error', reject);
    worker.on('exit', () => resolve());
    worker.on('message', (message) => {
      seen.push(message);
      if (seen.length === count) resolve();
    });
  });
  return seen;
}

describe('a worker', () => {
  // the first worker starts threads of the process that stay
  beforeAll(async () => {
    const worker = start('rest');
    await messages(worker, 1);
    await worker.terminate();
  });

  test('is told of eventfds and timers', async () => {
    const worker = start('events');
    expect(await messages(worker, 5)).toEqual(Array(5).fill('event'));
    await worker.terminate();
  });

  const tasks: [string, WorkerTask][] = [
    ['at rest', 'rest'],
    ['in an endless loop', 'spin'],
    ['trapping', 'trap'],
    ['posting', 'posted'],
  ];

  test.each(tasks)('that is terminated with VMs %s leaves nothing', async (_, task) => {
    const before = resources();
    for (let round = 0; round < 5; round++) {
      const worker = start(task);
      await messages(worker, task === 'trap' || task === 'posted' ? 3 : 1);
      const started = performance.now();
      await worker.terminate();
      expect(performance.now() - started).toBeLessThan(3000);
    }
    await vi.waitFor(() => expect(resources()).toEqual(before), 5000);
  });

  test('that is terminated at any moment does not hurt the process', async () => {
    for (let round = 0; round < 12; round++) {
      const worker = start(round % 2 ? 'trap' : 'posted');
      await messages(worker, 1);
      await new Promise((resolve) => setTimeout(resolve, round));
      await worker.terminate();
    }
  });

  test('that exits out of a trap of its own leaves nothing', async () => {
    const before = resources();
    const worker = start('exit');
    const [code] = (await once(worker, 'exit')) as [number];
    expect(code).toBe(0);
    await vi.waitFor(() => expect(resources()).toEqual(before), 5000);
  });
});
