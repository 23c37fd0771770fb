import type { Bus, RegionHandle } from '../../kvm/bus.ts';
import { PORT } from '../../boot/layout.ts';

/** What a guest's kernel says as it dies (QEMU, docs/specs/pvpanic). */
export type PanicEvent =
  /** it has panicked, and nothing more will come */
  | 'panicked'
  /** it has panicked, and a crash kernel takes over */
  | 'crash-loaded';

const EVENT = { panicked: 0x01, crashLoaded: 0x02 } as const;

/** The pvpanic port: a read tells the events it knows, a write is one of them. Trapped, as it may be the last. */
export class Pvpanic {
  readonly #region: RegionHandle;

  constructor(bus: Bus, onPanic: (event: PanicEvent) => void) {
    this.#region = bus.add({
      name: 'pvpanic',
      space: 'pio',
      base: PORT.pvpanic,
      size: 1,
      reads: 'shadow',
      writes: 'trap',
      write: (_offset, _size, value) => {
        if (value & EVENT.panicked) onPanic('panicked');
        else if (value & EVENT.crashLoaded) onPanic('crash-loaded');
      },
    });
    this.#region.shadow[0] = EVENT.panicked | EVENT.crashLoaded;
  }

  close(): void {
    this.#region.remove();
  }
}
