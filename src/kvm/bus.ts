/**
 * How a device declares what the guest may touch. The addon dispatches vCPU exits by these declarations alone and
 * knows nothing of any device; a round trip to JavaScript costs 10 to 50 microseconds, so a region says for each
 * byte whether the vCPU has to make it.
 */

/** `pio`: port I/O, 64 KiB of it. `mmio`: guest-physical addresses that are not RAM. */
export type BusSpace = 'pio' | 'mmio';

/**
 * `indexed`: registers behind an index and a data port, reached through an {@link IndexWindow} alone; a device
 * numbers its own after its index port.
 */
export type RegionSpace = BusSpace | 'indexed';

/**
 * How a read is answered.
 * - `trap`: the vCPU waits until {@link BusRegion.read} has answered. Earlier posted writes are processed first.
 * - `shadow`: at once, from the region's shadow bytes, also while posted writes are still on their way.
 * - `ordered`: from the shadow bytes, after all posted writes made before it have been processed; waits only
 *   where there are such.
 * - `consume`: as `ordered`, and {@link BusRegion.consumed} is told afterwards, in order with the posted writes
 *   (registers whose read has a side effect).
 * - `leased`: as `ordered` for as long as the device has let it by {@link RegionHandle.lease}, else as `trap`
 *   (values that may be a little old, but have to fit each other).
 * - `take`: gives what {@link RegionHandle.offer} has put there, and leaves what that said in its place, in one
 *   step; then {@link BusRegion.consumed} is told, and a read does not wait for that of the one before (registers
 *   that are cleared by reading). For accesses of one byte; wider ones are trapped.
 * - `counter`: at once, from a free-running counter, see {@link BusRegion.counter}.
 * An access over bytes of different modes follows the slowest of them.
 */
export type ReadMode = 'trap' | 'shadow' | 'ordered' | 'consume' | 'leased' | 'take' | 'counter';

/**
 * What a write does.
 * - `trap`: the vCPU waits until {@link BusRegion.write} has returned.
 * - `posted`: the write goes into a ring and the vCPU goes on; {@link BusRegion.write} is called in order. A full
 *   ring makes the vCPU wait, so a flood is bounded.
 * - `stream`: as `posted`, but reads with {@link BusRegion.order} `own` do not wait for it (data that flows out).
 * - `clear`: at once: the bits that are set in the value are cleared in a register of the shadow, see
 *   {@link BusRegion.clears} (interrupts that are acknowledged). The device is not told.
 * - `ignore`: dropped.
 */
export type WriteMode = 'trap' | 'posted' | 'stream' | 'clear' | 'ignore';

/** Width of one access in bytes. Wider accesses and those over the end of a region arrive in pieces of these. */
export type AccessSize = 1 | 2 | 4;

/**
 * Makes an index register and data bytes of a region of ports. The index is latched on the spot, and the data bytes
 * are what it chooses in another space: modes, callbacks and counts are those of the region found there, and where
 * none is, an empty bus. An access over the border of index or data is made in pieces.
 */
export type IndexWindow = {
  /** where the index is; only writes of exactly this width are taken, and the device is not told of them */
  readonly index: { readonly offset: number; readonly size: 1 | 4 };
  readonly data: { readonly offset: number; readonly size: number };
  readonly space: 'mmio' | 'indexed';
  readonly base: number;
  /** the data bytes are an empty bus unless the index has this value in these bits; default always there */
  readonly match?: { readonly mask: number; readonly value: number };
  /** bits of the index and how far they are moved left; their sum, added to `base`, is the address */
  readonly address: readonly { readonly mask: number; readonly shift: number }[];
};

export type BusRegion = {
  /** names the device in counters and messages, e.g. `serial` */
  readonly name: string;
  readonly space: RegionSpace;
  /** first port or guest-physical address */
  readonly base: number;
  /** in bytes */
  readonly size: number;
  /** one mode for all bytes, or one a byte (then `size` of them) */
  readonly reads: ReadMode | readonly ReadMode[];
  readonly writes: WriteMode | readonly WriteMode[];
  /**
   * Which posted writes `ordered`, `consume`, `leased` and `take` reads wait for: `all` (default), or those to this
   * region alone, where nothing that a read shows depends on another one.
   */
  readonly order?: 'all' | 'own';
  readonly window?: IndexWindow;
  /**
   * For `clear` writes: the register of 32 bits whose bits they clear, at a multiple of 4. Writes of other widths, or
   * that are not aligned, do nothing. The device sets bits there by Atomics, since vCPUs clear them at any time.
   */
  readonly clears?: number;
  /** For `counter` reads: little-endian, 0 at the VM's creation unless it is set, wraps at `bits`. */
  readonly counter?: { readonly hz: number; readonly bits: 24 | 32 };
  /** Answers a trapped read. Must not throw; what it returns is cut to `size` bytes. */
  read?(offset: number, size: AccessSize): number;
  /** Takes a trapped or posted write. Must not throw. `value` is unsigned. */
  write?(offset: number, size: AccessSize, value: number): void;
  /** A `consume` or `take` byte was read by the guest, and this is what it got. */
  consumed?(offset: number, size: AccessSize, value: number): void;
};

/** A region on the bus. */
export type RegionHandle = {
  /** what `shadow`, `ordered`, `consume` and `leased` reads show; `size` bytes, zero at first, kept by the device */
  readonly shadow: Uint8Array;
  /** the index of the region's {@link IndexWindow}, all bits of it */
  index: number;
  /** what `counter` reads show now; it goes on from what it is set to, of which it keeps its `bits` */
  counter: number;
  /** Lets `leased` reads be served from the shadow for `ms` milliseconds from now on; 0 ends that. */
  lease(ms: number): void;
  /**
   * Sets what a `take` byte reads as, and what the read leaves there. False, with nothing done, where the last offer
   * was taken and `consumed` has not been told yet: offer then.
   */
  offer(offset: number, value: number, left: number): boolean;
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

/** An edge-triggered line into the interrupt controller. */
export type EdgeLine = {
  /** Interrupts once. */
  pulse(): void;
};

/** A line into the interrupt controller. Setting a level that it has is a no-op. */
export type IrqLine = {
  set(high: boolean): void;
};
