import type { Bus, RegionHandle } from '../../kvm/bus.ts';
import { PORT } from '../../boot/layout.ts';

const CONTROL_A = { fastReset: 0x01, a20: 0x02 } as const;

/**
 * System control port A (0x92): bit 0 going on resets the machine, bit 1 is the A20 gate, which is kept but has no
 * effect: address line 20 is always on.
 */
export class SystemControlA {
  readonly #region: RegionHandle;

  constructor(bus: Bus, onReset: () => void) {
    this.#region = bus.add({
      name: 'system-control-a',
      space: 'pio',
      base: PORT.systemControlA,
      size: 1,
      reads: 'ordered',
      writes: 'posted',
      write: (_offset, _size, value) => {
        const rising = value & ~this.save() & CONTROL_A.fastReset;
        this.restore(value);
        if (rising) onReset();
      },
    });
    this.reset();
  }

  reset(): void {
    this.restore(CONTROL_A.a20);
  }

  save(): number {
    return this.#region.shadow[0]!;
  }

  /** Sets the register without an effect. */
  restore(value: number): void {
    this.#region.shadow[0] = value & (CONTROL_A.fastReset | CONTROL_A.a20);
  }

  close(): void {
    this.#region.remove();
  }
}
