import type { AccessSize, Bus, BusRegion, IrqLine, ReadMode, RegionHandle, WriteMode } from './bus.ts';
import { CAP, type CapabilityName } from './constants.ts';
import type { GuestRam } from './memory.ts';
import { native, type NativeVm } from './native.ts';
import { IrqRouting } from './routing.ts';
import type { Kvm } from './system.ts';
import { Vcpu, type VcpuExit } from './vcpu.ts';

/** As numbered in native/bus.h. */
const READ_MODES: readonly ReadMode[] = ['counter', 'shadow', 'ordered', 'consume', 'trap'];
const WRITE_MODES: readonly WriteMode[] = ['ignore', 'posted', 'trap'];
/** Of a posted access: the kind that only announces a `consume` read (native/channel.h). */
const CONSUMED = 0x100;

const modeBytes = <Mode>(order: readonly Mode[], modes: Mode | readonly Mode[]): Uint8Array =>
  Uint8Array.from(Array.isArray(modes) ? (modes as readonly Mode[]) : [modes as Mode], (mode) =>
    order.indexOf(mode),
  );

export type KvmVmOptions = {
  /** guest-physical addresses of KVM's private pages */
  readonly identityMapAddress: number;
  readonly tssAddress: number;
  /** PICs, IOAPIC and local APICs in the kernel; default true */
  readonly irqchip?: boolean;
  /** the PC timer in the kernel; default true */
  readonly pit?: boolean;
};

/** Accesses to one region so far, and how many of them made a vCPU wait for JavaScript. */
export type RegionCount = {
  readonly name: string;
  readonly reads: number;
  readonly writes: number;
  readonly waits: number;
};

/**
 * A virtual machine as KVM has it: memory slots, interrupt lines, the bus and vCPUs. While a vCPU runs, it keeps
 * itself and the process alive; dropped at rest, it is collected with all it holds.
 */
export class KvmVm implements Bus {
  readonly native: NativeVm;
  readonly routing: IrqRouting;
  /** What lives as long as the VM although nobody else may hold it: watched events, which hold nothing themselves. */
  readonly attached = new Set<object>();
  /** Told when a vCPU stopped by itself. */
  onExit: (exit: VcpuExit) => void = () => undefined;
  /** Told of an exception out of a device's callback: a bug of tsvm, never the guest's doing. */
  onDeviceError: (region: BusRegion, error: unknown) => void = (_, error) => {
    throw error;
  };
  readonly #regions = new Map<number, BusRegion>();
  readonly #vcpus: Vcpu[] = [];
  readonly #posted: Uint32Array;
  #closed = false;

  /** @throws KvmError */
  constructor(kvm: Kvm, options: KvmVmOptions) {
    this.native = new (native().Vm)(kvm.native);
    this.#posted = new Uint32Array(this.native.postedBuffer());
    const irqchip = options.irqchip ?? true;
    this.routing = new IrqRouting((table) => {
      if (!this.#closed) this.native.setRouting(table);
    });
    try {
      this.native.setup({
        identityMapAddress: options.identityMapAddress,
        tssAddress: options.tssAddress,
        irqchip,
        pit: irqchip && (options.pit ?? true),
      });
      if (irqchip) this.routing.apply();
    } catch (error) {
      this.native.close();
      throw error;
    }
    this.native.onPosted = (count) => this.#drain(count);
    this.native.onTrapRead = (id, offset, size) => this.#read(id, offset, size as AccessSize);
    this.native.onTrapWrite = (id, offset, size, value) => this.#write(id, offset, size as AccessSize, value);
    this.native.onVcpuEvent = (index, kind, reason, errno, detail) => {
      this.#vcpus[index]?.rested(kind);
      this.#settle();
      if (kind === 'exit') this.onExit({ vcpu: index, reason, errno, detail });
    };
  }

  get closed(): boolean {
    return this.#closed;
  }

  get vcpus(): readonly Vcpu[] {
    return this.#vcpus;
  }

  capability(name: CapabilityName): number {
    return this.native.checkExtension(CAP[name]);
  }

  /** Puts RAM where its ranges say. @throws KvmError */
  mapRam(ram: GuestRam): void {
    ram.slots.forEach(({ base, size, offset }, slot) =>
      this.native.setMemory({
        slot,
        address: base,
        size,
        memory: ram.native,
        offset,
        readOnly: false,
        logDirty: false,
      }),
    );
  }

  /** @throws KvmError */
  createVcpu(): Vcpu {
    const index = this.#vcpus.length;
    const vcpu = new Vcpu(index, this.native.createVcpu(index), () => this.native.setActive(true));
    this.#vcpus.push(vcpu);
    return vcpu;
  }

  /** Lets all vCPUs run. */
  resume(): void {
    if (this.#closed) return;
    for (const vcpu of this.#vcpus) vcpu.resume();
  }

  /** Resolves when all vCPUs rest. */
  async pause(): Promise<void> {
    await Promise.all(this.#vcpus.map((vcpu) => vcpu.pause()));
  }

  add(region: BusRegion): RegionHandle {
    const end = region.base + region.size;
    for (const other of this.#regions.values()) {
      if (other.space === region.space && other.base < end && region.base < other.base + other.size) {
        throw new RangeError(
          `${region.name} at 0x${region.base.toString(16)} overlaps ${other.name} at 0x${other.base.toString(16)}`,
        );
      }
    }
    const { id, shadow } = this.native.addRegion({
      space: region.space,
      base: region.base,
      size: region.size,
      reads: modeBytes(READ_MODES, region.reads),
      writes: modeBytes(WRITE_MODES, region.writes),
      counterHz: region.counter?.hz ?? 0,
      counterBits: region.counter?.bits ?? 32,
    });
    this.#regions.set(id, region);
    return {
      shadow: shadow === undefined ? new Uint8Array(0) : new Uint8Array(shadow),
      reads: () => this.#readsOf(id),
      remove: () => {
        if (!this.#regions.delete(id) || this.#closed) return;
        this.native.removeRegion(id);
      },
    };
  }

  /** A line of the interrupt controllers. */
  irqLine(gsi: number): IrqLine {
    let level = false;
    return {
      set: (high) => {
        if (high === level || this.#closed) return;
        level = high;
        this.native.irqLine(gsi, high);
      },
    };
  }

  /** Accesses by region since it was added, those that no device claimed as `unclaimed`. */
  counters(): RegionCount[] {
    const rows = this.native.counters();
    const counts: RegionCount[] = [];
    for (let at = 0; at < rows.length; at += 4) {
      const name = this.#regions.get(rows[at]!)?.name ?? 'unclaimed';
      counts.push({ name, reads: rows[at + 1]!, writes: rows[at + 2]!, waits: rows[at + 3]! });
    }
    return counts;
  }

  /** Ends all vCPU threads and frees what KVM holds. Memory is its owner's to close. May be called again. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.native.close();
    for (const vcpu of this.#vcpus) vcpu.rested('closed');
    this.#regions.clear();
    this.attached.clear();
  }

  #readsOf(id: number): number {
    if (this.#closed) return 0;
    const rows = this.native.counters();
    for (let at = 0; at < rows.length; at += 4) if (rows[at] === id) return rows[at + 1]!;
    return 0;
  }

  /** Where no vCPU runs any more, nothing keeps the VM alive but those who hold it. */
  #settle(): void {
    if (!this.#closed && !this.#vcpus.some((vcpu) => vcpu.running)) this.native.setActive(false);
  }

  #drain(count: number): void {
    const posted = this.#posted;
    for (let at = 0; at < count * 4; at += 4) {
      const region = this.#regions.get(posted[at]!);
      if (region === undefined) continue;
      const offset = posted[at + 1]!;
      const kind = posted[at + 2]!;
      try {
        if (kind >= CONSUMED) region.consumed?.(offset, (kind - CONSUMED) as AccessSize);
        else region.write?.(offset, kind as AccessSize, posted[at + 3]!);
      } catch (error) {
        this.#report(region, error);
      }
    }
  }

  /** What `onDeviceError` throws must not cost other devices the accesses that are delivered with this one. */
  #report(region: BusRegion, error: unknown): void {
    try {
      this.onDeviceError(region, error);
    } catch (uncaught) {
      queueMicrotask(() => {
        throw uncaught;
      });
    }
  }

  #read(id: number, offset: number, size: AccessSize): number {
    const region = this.#regions.get(id);
    try {
      return region?.read?.(offset, size) ?? 0xffff_ffff;
    } catch (error) {
      if (region) this.#report(region, error);
      return 0xffff_ffff;
    }
  }

  #write(id: number, offset: number, size: AccessSize, value: number): void {
    const region = this.#regions.get(id);
    try {
      region?.write?.(offset, size, value);
    } catch (error) {
      if (region) this.#report(region, error);
    }
  }
}
