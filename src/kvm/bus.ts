/**
 * How a device declares what the guest may touch. The addon dispatches vCPU exits by these declarations alone and
 * knows nothing of any device; a round trip to JavaScript costs 10 to 50 microseconds, so a region says for each
 * byte whether the vCPU has to make it.
 */

/** `pio`: port I/O, 64 KiB of it. `mmio`: guest-physical addresses that are not RAM. */
export type BusSpace = 'pio' | 'mmio';

/**
 * How a read is answered.
 * - `trap`: the vCPU waits until {@link BusRegion.read} has answered. Earlier posted writes are processed first.
 * - `shadow`: at once, from the region's shadow bytes, also while posted writes are still on their way.
 * - `ordered`: from the shadow bytes, after all posted writes made before it have been processed; waits only
 *   where there are such.
 * - `consume`: as `ordered`, and {@link BusRegion.consumed} is told afterwards, in order with the posted writes
 *   (registers whose read has a side effect).
 * - `counter`: at once, from a free-running counter, see {@link BusRegion.counter}.
 * An access over bytes of different modes follows the slowest of them.
 */
export type ReadMode = 'trap' | 'shadow' | 'ordered' | 'consume' | 'counter';

/**
 * What a write does.
 * - `trap`: the vCPU waits until {@link BusRegion.write} has returned.
 * - `posted`: the write goes into a ring and the vCPU goes on; {@link BusRegion.write} is called in order. A full
 *   ring makes the vCPU wait, so a flood is bounded.
 * - `ignore`: dropped.
 */
export type WriteMode = 'trap' | 'posted' | 'ignore';

/** Width of one access in bytes. Wider accesses and those over the end of a region arrive in pieces of these. */
export type AccessSize = 1 | 2 | 4;

export type BusRegion = {
  /** names the device in counters and messages, e.g. `serial` */
  readonly name: string;
  readonly space: BusSpace;
  /** first port or guest-physical address */
  readonly base: number;
  /** in bytes */
  readonly size: number;
  /** one mode for all bytes, or one a byte (then `size` of them) */
  readonly reads: ReadMode | readonly ReadMode[];
  readonly writes: WriteMode | readonly WriteMode[];
  /** For `counter` reads: little-endian, counts from the VM's creation on, wraps at `bits`. */
  readonly counter?: { readonly hz: number; readonly bits: 24 | 32 };
  /** Answers a trapped read. Must not throw; what it returns is cut to `size` bytes. */
  read?(offset: number, size: AccessSize): number;
  /** Takes a trapped or posted write. Must not throw. `value` is unsigned. */
  write?(offset: number, size: AccessSize, value: number): void;
  /** A `consume` byte was read by the guest. */
  consumed?(offset: number, size: AccessSize): void;
};

/** A region on the bus. */
export type RegionHandle = {
  /** what `shadow`, `ordered` and `consume` reads are served from; `size` bytes, zero at first, kept by the device */
  readonly shadow: Uint8Array;
  /** Reads by the guest so far, those that the device is not told of among them. Not for hot paths. */
  reads(): number;
  /** Takes the region off the bus; no call into the device is made from then on. */
  remove(): void;
};

/** What a device is given to put its registers on. */
export type Bus = {
  /** @throws RangeError where it overlaps a region that is there, naming both */
  add(region: BusRegion): RegionHandle;
};

/** A line into the interrupt controller. Setting a level that it has is a no-op. */
export type IrqLine = {
  set(high: boolean): void;
};
