import type { AccessSize, Bus, BusRegion, EdgeLine, IrqLine, RegionHandle } from './bus.ts';
import { CAP, type CapabilityName } from './constants.ts';
import { createEventFd, type EventFd } from './events.ts';
import type { GuestRam } from './memory.ts';
import { native, type NativeVm } from './native.ts';
import { Region } from './region.ts';
import { IrqRouting } from './routing.ts';
import type { Kvm } from './system.ts';
import { Vcpu, type VcpuExit } from './vcpu.ts';

/** Of a posted access: the kind that only announces a `consume` or `take` read (native/channel.h). */
const CONSUMED = 0x100;

export type KvmVmOptions = {
  /** guest-physical addresses of KVM's private pages */
  readonly identityMapAddress: number;
  readonly tssAddress: number;
  /** PICs, IOAPIC and local APICs in the kernel; default true */
  readonly irqchip?: boolean;
  /** the PC timer in the kernel; default true */
  readonly pit?: boolean;
  /**
   * RAM, as {@link KvmVm.mapRam} takes it. Here, it comes before the interrupt controllers: with each device that KVM puts
   * on its buses a grace period begins, and a memory slot waits for the end of those that have (some 7 ms of Linux 6.18).
   */
  readonly ram?: GuestRam;
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
  /** What lives as long as the VM although nobody else may hold it: events that KVM signals or takes. */
  readonly attached = new Set<EventFd>();
  /** Told when a vCPU stopped by itself. */
  onExit: (exit: VcpuExit) => void = () => undefined;
  /** Told of an exception out of a device's callback: a bug of tsvm, never the guest's doing. */
  onDeviceError: (region: BusRegion, error: unknown) => void = (_, error) => {
    throw error;
  };
  readonly #regions = new Map<number, Region>();
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
      if (options.ram !== undefined) this.mapRam(options.ram);
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
    // Their watchdogs are to know why time has gone by.
    if (!this.#closed) for (const vcpu of this.#vcpus) vcpu.tellOfPause();
  }

  add(spec: BusRegion): RegionHandle {
    const end = spec.base + spec.size;
    for (const { spec: other } of this.#regions.values()) {
      if (other.space === spec.space && other.base < end && spec.base < other.base + other.size) {
        throw new RangeError(
          `${spec.name} at 0x${spec.base.toString(16)} overlaps ${other.name} at 0x${other.base.toString(16)}`,
        );
      }
    }
    const region = new Region(this.native, spec, (id) => this.#regions.delete(id));
    this.#regions.set(region.id, region);
    return region;
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

  /** The same as a line whose edges count, by irqfd. Goes with the VM. */
  edgeLine(gsi: number): EdgeLine {
    const event = createEventFd();
    this.native.irqfd({ fd: event.fd, gsi });
    this.attached.add(event);
    return {
      pulse: () => {
        if (!this.#closed) event.signal();
      },
    };
  }

  /** Accesses by region since it was added, those that no device claimed as `unclaimed`. */
  counters(): RegionCount[] {
    const rows = this.native.counters();
    const counts: RegionCount[] = [];
    for (let at = 0; at < rows.length; at += 4) {
      const name = this.#regions.get(rows[at]!)?.spec.name ?? 'unclaimed';
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
    for (const region of [...this.#regions.values()]) region.forget();
    for (const event of this.attached) event.close();
    this.attached.clear();
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
        if (kind >= CONSUMED) region.consumed(offset, kind - CONSUMED, posted[at + 3]!);
        else region.spec.write?.(offset, kind as AccessSize, posted[at + 3]!);
      } catch (error) {
        this.#report(region.spec, error);
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
    const region = this.#regions.get(id)?.spec;
    try {
      return region?.read?.(offset, size) ?? 0xffff_ffff;
    } catch (error) {
      if (region) this.#report(region, error);
      return 0xffff_ffff;
    }
  }

  #write(id: number, offset: number, size: AccessSize, value: number): void {
    const region = this.#regions.get(id)?.spec;
    try {
      region?.write?.(offset, size, value);
    } catch (error) {
      if (region) this.#report(region, error);
    }
  }
}
