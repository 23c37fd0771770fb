/** A worker that leaves VMs open in a state that is asked for, and says when it is there. */
import { parentPort, workerData } from 'node:worker_threads';
import { createEventFd, createTimer } from '../../src/kvm/events.ts';
import { tinyVm } from './real-mode.ts';
import { real, SPIN } from './x86.ts';

export type WorkerTask = 'rest' | 'spin' | 'trap' | 'posted' | 'exit' | 'events';

const PORT = 0x500;
const task = workerData as WorkerTask;
const hammer = [...real.movDx(PORT), ...real.forever(real.outDxAl)];
const held: unknown[] = [];

if (task === 'events') {
  const fd = createEventFd();
  const timer = createTimer();
  held.push(fd, timer);
  fd.onEvent = () => parentPort?.postMessage('event');
  timer.onEvent = () => fd.signal();
  fd.watch();
  timer.watch();
  timer.arm(1e6, 1e6);
  // what is watched does not keep a worker alive
  setInterval(() => undefined, 1000);
} else {
  for (let i = 0; i < 3; i++) {
    const tiny = tinyVm(task === 'rest' || task === 'spin' ? SPIN : hammer);
    let calls = 0;
    tiny.vm.add({
      name: 'hammered',
      space: 'pio',
      base: PORT,
      size: 1,
      reads: 'trap',
      writes: task === 'posted' ? 'posted' : 'trap',
      write: () => {
        if (++calls === 100) parentPort?.postMessage('running');
        if (calls === 200 && task === 'exit') process.exit(0);
      },
    });
    held.push(tiny);
    if (task !== 'rest') tiny.vm.resume();
  }
  if (task === 'rest' || task === 'spin') parentPort?.postMessage('running');
  if (task === 'rest') setInterval(() => undefined, 1000);
}
