import type { IrqLine } from '../kvm/bus.ts';

/** A level-triggered line that several sources share: high while one of them is. */
export class SharedLine {
  readonly #line: IrqLine;
  #high = 0;

  constructor(line: IrqLine) {
    this.#line = line;
  }

  /** The end of the line for one more source. */
  source(): IrqLine {
    let level = false;
    return {
      set: (high) => {
        if (high === level) return;
        level = high;
        this.#high += high ? 1 : -1;
        this.#line.set(this.#high > 0);
      },
    };
  }
}
