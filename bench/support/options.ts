import { InvalidArgumentError } from 'commander';
import { availableParallelism, loadavg } from 'node:os';

/** Of an option's value: a whole number above 0. @throws InvalidArgumentError */
export function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('not a whole number above 0');
  return value;
}

/** Says on standard error where this machine is busy with other things. */
export function warnIfBusy(): void {
  const [load1 = 0] = loadavg();
  if (load1 > availableParallelism() / 4) {
    console.error(`This machine is busy (load ${load1.toFixed(1)}): what follows is about that, too.`);
  }
}
