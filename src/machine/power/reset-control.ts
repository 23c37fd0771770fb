const RESET_CONTROL = { hard: 0x02, resetCpu: 0x04, full: 0x08 } as const;
const RESET_CONTROL_BITS = RESET_CONTROL.hard | RESET_CONTROL.resetCpu | RESET_CONTROL.full;

/**
 * The reset control register at port 0xcf9 (Intel 82371AB data sheet, 4.1.2.3): bit 2 going on resets, hard with
 * bit 1 and the CPU alone without; here both reset the machine.
 */
export class ResetControl {
  readonly #onReset: () => void;
  #value = 0;

  constructor(onReset: () => void) {
    this.#onReset = onReset;
  }

  read(): number {
    return this.#value;
  }

  write(value: number): void {
    const rising = value & ~this.#value & RESET_CONTROL.resetCpu;
    this.#value = value & RESET_CONTROL_BITS;
    if (rising) this.#onReset();
  }

  /** Sets the register without an effect. */
  restore(value: number): void {
    this.#value = value & RESET_CONTROL_BITS;
  }
}
