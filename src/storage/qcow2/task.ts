/**
 * Work that waits for I/O, written as generators. Promises would not do: `Disk.drain` blocks and must see all of it
 * through, and microtasks do not run meanwhile. A task arranges to be woken, then yields.
 */

/** @yields nothing; what it is resumed with is the number given to {@link Tasks.wake} */
export type Task<Result = void> = Generator<undefined, Result, number>;

export type Waiter = { resume(value: number): void };

class Fiber implements Waiter {
  readonly #tasks: Tasks;
  readonly #task: Task;

  constructor(tasks: Tasks, task: Task) {
    this.#tasks = tasks;
    this.#task = task;
  }

  resume(value: number): void {
    this.#tasks.step(this, this.#task, value);
  }
}

/** Tasks of one image, and the queue of those that may go on. */
export class Tasks {
  #current: Waiter | undefined;
  #queue: Waiter[] = [];
  #values: number[] = [];
  #head = 0;
  #active = 0;
  /** Counts calls of {@link run}: within one, everything that was woken runs. */
  round = 0;

  /** Tasks that have begun and not ended. */
  get active(): number {
    return this.#active;
  }

  get ready(): boolean {
    return this.#head < this.#queue.length;
  }

  /** Begins a task, from the queue: nothing of it runs within this call. It must handle all errors itself. */
  spawn(task: Task): void {
    this.#active++;
    this.wake(new Fiber(this, task), 0);
  }

  /** The task that is running, to be woken later. */
  get current(): Waiter {
    if (this.#current === undefined) throw new Error('no task is running');
    return this.#current;
  }

  wake(waiter: Waiter, value: number): void {
    this.#queue.push(waiter);
    this.#values.push(value);
  }

  wakeAll(waiters: Waiter[], value = 0): void {
    for (const waiter of waiters.splice(0)) this.wake(waiter, value);
  }

  /** Runs whatever may go on, and what that wakes. */
  run(): void {
    this.round++;
    while (this.#head < this.#queue.length) {
      const at = this.#head++;
      const waiter = this.#queue[at]!;
      const value = this.#values[at]!;
      if (this.#head === this.#queue.length) {
        this.#queue.length = 0;
        this.#values.length = 0;
        this.#head = 0;
      }
      waiter.resume(value);
    }
  }

  step(fiber: Waiter, task: Task, value: number): void {
    const outer = this.#current;
    this.#current = fiber;
    try {
      if (task.next(value).done === true) this.#active--;
    } catch (error) {
      this.#active--;
      throw error;
    } finally {
      this.#current = outer;
    }
  }
}

/** Waits until woken. @returns what it was woken with */
export function* pause(tasks: Tasks, waiters: Waiter[]): Task<number> {
  waiters.push(tasks.current);
  return yield;
}

/** One at a time, in the order of asking. */
export class Mutex {
  readonly #tasks: Tasks;
  readonly #waiters: Waiter[] = [];
  #held = false;

  constructor(tasks: Tasks) {
    this.#tasks = tasks;
  }

  *acquire(): Task {
    // Handed over by `release`: nobody gets in between.
    if (this.#held) yield* pause(this.#tasks, this.#waiters);
    this.#held = true;
  }

  release(): void {
    const next = this.#waiters.shift();
    if (next === undefined) this.#held = false;
    else this.#tasks.wake(next, 0);
  }
}

type Range = { readonly first: number; readonly last: number; readonly waiters: Waiter[] };

/** Ranges of guest clusters whose mapping is being changed. Whoever wants to change them too waits. */
export class RangeLocks {
  readonly #tasks: Tasks;
  readonly #held: Range[] = [];

  constructor(tasks: Tasks) {
    this.#tasks = tasks;
  }

  /** Takes all of it at once, or waits: nobody holds a part while it waits for the rest. */
  *acquire(first: number, last: number): Task<Range> {
    for (;;) {
      const other = this.#held.find((range) => range.first <= last && first <= range.last);
      if (other === undefined) break;
      yield* pause(this.#tasks, other.waiters);
    }
    const range: Range = { first, last, waiters: [] };
    this.#held.push(range);
    return range;
  }

  release(range: Range): void {
    const at = this.#held.indexOf(range);
    const last = this.#held.pop()!;
    if (at < this.#held.length) this.#held[at] = last;
    this.#tasks.wakeAll(range.waiters);
  }
}
