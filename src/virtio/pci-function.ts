/**
 * What a device shows of itself as a PCI function. The board's PCI code owns configuration space, places BARs and
 * does MSI-X; a function brings its identity, its registers and its capabilities.
 */
import type { BusRegion } from '../kvm/bus.ts';
import type { RegisterImage } from './register-image.ts';

export type PciIdentity = {
  readonly vendor: number;
  readonly device: number;
  readonly revision: number;
  /** base class, subclass, programming interface: 24 bits */
  readonly classCode: number;
  readonly subsystemVendor: number;
  readonly subsystem: number;
};

/** Registers somewhere in a BAR. They are on the bus while the guest has the BAR placed and decoded. */
export type BarRegion = Omit<BusRegion, 'base' | 'space' | 'counter' | 'size'> & {
  /** from the BAR's start on */
  readonly offset: number;
  /** what reads are answered from, and how large the region is */
  readonly image: RegisterImage;
  /** It is on the bus at this guest-physical address now. */
  placed?(address: number): void;
  /** It no longer is. */
  unplaced?(): void;
};

/** A memory BAR. A 64-bit one takes the next index as well. */
export type PciBar = {
  /** 0 to 5 */
  readonly index: number;
  readonly width: 32 | 64;
  readonly prefetchable?: boolean;
  /** in bytes, a power of two, at least 16 */
  readonly size: number;
  readonly regions: readonly BarRegion[];
};

export type PciCapability = {
  /** PCI Local Bus Specification 3.0, Appendix H */
  readonly id: number;
  /** all bytes after the id and the pointer to the next one */
  readonly body: Uint8Array;
  /** bytes of the body that the guest may write, as [from, to) */
  readonly writable?: readonly (readonly [from: number, to: number])[];
  /** a register of the body, four bytes, that acts when it is accessed; `body` has the bytes as they are now */
  readonly window?: {
    readonly offset: number;
    read(body: DataView): number;
    write(body: DataView): void;
  };
};

/** The board's side of a function. */
export type PciSlot = {
  /** whether the driver has chosen MSI-X instead of INTx */
  readonly msixEnabled: boolean;
  /** Sends a vector's message; one that is masked stays pending. Nothing happens while MSI-X is off. */
  message(vector: number): void;
  /** Sets the level of INTA#. */
  pin(high: boolean): void;
  /** An access to a BAR's registers, whether they are placed or not; all ones where there are none. */
  readBar(bar: number, offset: number, size: 1 | 2 | 4): number;
  writeBar(bar: number, offset: number, size: 1 | 2 | 4, value: number): void;
};

export type PciFunction = {
  readonly name: string;
  readonly identity: PciIdentity;
  readonly bars: readonly PciBar[];
  readonly capabilities: readonly PciCapability[];
  /** vectors 1 to 2048, and where in which BAR their table and pending bits go; both 4 KiB-aligned or apart */
  readonly msix?: {
    readonly vectors: number;
    readonly bar: number;
    readonly table: number;
    readonly pending: number;
  };
  /** whether it has INTA# */
  readonly interruptPin: boolean;
  /** Called once, before anything else. */
  attach(slot: PciSlot): void;
  /** As the board's reset line; resolves once it touches guest memory no more. */
  reset(): Promise<void>;
  /** Stops for a snapshot, and goes on. */
  pause(): Promise<void>;
  resume(): void;
  /** Plain data. Only while paused. */
  save(): unknown;
  /** @throws DeviceStateError, with nothing changed */
  restore(state: unknown): void;
};
