// The driver's side of a virtqueue on a thread of its own, as a vCPU is one: it shares memory with the device and
// nothing else. Plain JavaScript, so that a worker thread can run it as it is. Request n brings the number n and is
// answered with it; a request that is answered wrongly, or a wait without end, is reported.
import { parentPort, workerData } from 'node:worker_threads';

const { buffer, signals, size, at, requests, eventIdx } = workerData;
const words16 = new Uint16Array(buffer);
const words32 = new Uint32Array(buffer);
const kick = 0;
const irq = 1;
/** answers wait for an interrupt this long, in milliseconds */
const LIMIT = 5000;

const word16 = (address) => address / 2;
const word32 = (address) => address / 4;
const availableIndex = word16(at.driver) + 1;
const usedEvent = word16(at.driver) + 2 + size;
const usedFlags = word16(at.device);
const usedIndex = usedFlags + 1;
const availableEvent = usedFlags + 2 + 4 * size;

/** Each request has two descriptors, and four words of memory for its number and the answer. */
const slots = size / 2;
const dataOf = (slot) => at.buffers + 16 * slot;

for (let slot = 0; slot < slots; slot++) {
  [false, true].forEach((answer, i) => {
    const descriptor = word32(at.descriptors) + 4 * (2 * slot + i);
    words32[descriptor] = dataOf(slot) + 8 * i;
    words32[descriptor + 1] = 0;
    words32[descriptor + 2] = 4;
    words32[descriptor + 3] = answer ? 2 : 1 | ((2 * slot + 1) << 16);
  });
}

const fail = (message) => {
  throw new Error(message);
};

const free = Array.from({ length: slots }, (_, slot) => slot);
const numbers = new Uint32Array(slots);
let made = 0;
let answered = 0;
let waits = 0;
let kicks = 0;

while (answered < requests) {
  const before = made;
  while (free.length > 0 && made < requests && (made - before < 3 || made % 7 === 0)) {
    const slot = free.pop();
    numbers[slot] = made * 2654435761;
    words32[word32(dataOf(slot))] = numbers[slot];
    words16[word16(at.driver) + 2 + (made % size)] = 2 * slot;
    made++;
  }
  if (made !== before) {
    Atomics.store(words16, availableIndex, made & 0xffff);
    const event = Atomics.load(words16, availableEvent);
    const wanted = eventIdx
      ? ((made - event - 1) & 0xffff) < ((made - before) & 0xffff)
      : (Atomics.load(words16, usedFlags) & 1) === 0;
    if (wanted) {
      kicks++;
      Atomics.add(signals, kick, 1);
    }
  }
  const seen = Atomics.load(signals, irq);
  // "interrupt me for the next one", and then a look whether it has come already
  if (eventIdx) Atomics.store(words16, usedEvent, answered & 0xffff);
  if (Atomics.load(words16, usedIndex) === (answered & 0xffff)) {
    if (free.length > 0 && made < requests) continue;
    waits++;
    if (Atomics.wait(signals, irq, seen, LIMIT) === 'timed-out') {
      if (Atomics.load(words16, usedIndex) === (answered & 0xffff))
        fail(`no answer to ${answered}: a lost notification`);
      fail(`no interrupt for ${answered}`);
    }
    continue;
  }
  while (Atomics.load(words16, usedIndex) !== (answered & 0xffff)) {
    const element = word32(at.device) + 1 + 2 * (answered % size);
    const head = words32[element];
    const written = words32[element + 1];
    if (head % 2 !== 0 || head >= size || written !== 4)
      fail(`element ${answered}: head ${head}, ${written} bytes`);
    const slot = head / 2;
    const answer = words32[word32(dataOf(slot)) + 2];
    if (answer !== numbers[slot]) fail(`request ${numbers[slot]} is answered ${answer}`);
    free.unshift(slot);
    answered++;
  }
}
parentPort.postMessage({ answered, waits, kicks });
