import { GSI, KVM_IDENTITY_MAP, KVM_TSS, PORT, ramRanges } from '../boot/layout.ts';
import { DeviceStateError } from '../kvm/device-state.ts';
import { GuestRam, type HugePages } from '../kvm/memory.ts';
import type { Kvm } from '../kvm/system.ts';
import { KvmVm } from '../kvm/vm.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import { readTime } from '../kvm/guest-time.ts';
import { saveVcpu, restoreVcpu } from '../kvm/vcpu-state.ts';
import { restoreChips, restoreClocks, saveVm } from '../kvm/vm-state.ts';
import { buildAcpi, writeAcpi } from './acpi/tables.ts';
import type { BoardState, EncodedBoardState } from './board-state.ts';
import { buildCpuid } from './cpuid/build.ts';
import { requireHost } from './cpuid/host.ts';
import { I8042 } from './i8042/device.ts';
import { PciConfigPorts } from './pci/config-ports.ts';
import { Power } from './power/device.ts';
import { setUpProcessor } from './processors.ts';
import { Rtc } from './rtc/device.ts';
import { Serial } from './serial/device.ts';
import { buildSmbios, writeSmbios } from './smbios/tables.ts';
import { VmGeneration } from './vm-generation.ts';
import { VirtioBus, type VirtioTransport } from './virtio-bus.ts';

export type BoardOptions = {
  readonly kvm: Kvm;
  /** guest RAM in bytes, whole pages */
  readonly memory: number;
  /** 1 to MAX_VCPUS */
  readonly cpus: number;
  /** CPU features added and masked, see `buildCpuid` */
  readonly cpu: string;
  /** identity of the VM, as SMBIOS has it */
  readonly uuid: string;
  /** VM generation id, a UUID: another one for each copy that runs on */
  readonly generation: string;
  /** default `transparent` */
  readonly hugePages?: HugePages;
  /** made anew for every board, see {@link VirtioDevice} */
  readonly devices: readonly VirtioDevice[];
  readonly transport: VirtioTransport;
  /** takes lines for the log: what a guest or a device did wrong */
  readonly report: (message: string) => void;
  /** takes what the guest writes to COM1; the bytes are the callee's to keep */
  readonly serialOutput: (bytes: Uint8Array) => void;
  /** the guest has entered S5 */
  readonly onPowerOff: () => void;
  /** the guest asks for a reset; may come more than once */
  readonly onReset: () => void;
  /** the guest's kernel has died and will do nothing about it itself */
  readonly onPanic: () => void;
  /** goes on from there, instead of starting anew; RAM is the board's to close, once it is made */
  readonly restore?: { readonly state: BoardState; readonly ram: GuestRam };
};

/**
 * A PC without a kernel: RAM, interrupt controllers, tables, processors and legacy devices on one VM. It is reset by
 * making a new one.
 */
export class Board {
  readonly vm: KvmVm;
  readonly ram: GuestRam;
  readonly serial: Serial;
  readonly keyboard: I8042;
  readonly power: Power;
  readonly generation: VmGeneration;
  /** guest-physical address of ACPI's root pointer; 0 where the board was restored */
  readonly rsdp: number;
  /** what the kernel's command line has to say of devices */
  readonly kernelParameters: readonly string[];
  readonly #rtc: Rtc;
  readonly #virtio: VirtioBus;
  readonly #pciConfig: PciConfigPorts;
  /** those that KVM saves */
  readonly #msrs: Uint32Array;

  /**
   * @throws KvmError, CpuFeatureError, RangeError for too many devices, DeviceStateError for a state that does not fit;
   * nothing is left open then
   */
  constructor(options: BoardOptions) {
    const { kvm, memory } = options;
    this.#msrs = kvm.msrIndices();
    this.ram =
      options.restore?.ram ??
      new GuestRam({ ranges: ramRanges(memory), hugePages: options.hugePages ?? 'transparent' });
    try {
      this.vm = new KvmVm(kvm, {
        identityMapAddress: KVM_IDENTITY_MAP,
        tssAddress: KVM_TSS,
        ram: this.ram,
      });
    } catch (error) {
      this.ram.close();
      throw error;
    }
    const bus = this.vm;
    const { onReset, onPowerOff } = options;
    try {
      this.#virtio = new VirtioBus({
        vm: bus,
        memory: this.ram.memory,
        transport: options.transport,
        devices: options.devices,
        report: options.report,
      });
    } catch (error) {
      this.vm.close();
      this.ram.close();
      throw error;
    }
    this.kernelParameters = this.#virtio.kernelParameters;
    this.serial = new Serial({ bus, irq: bus.irqLine(GSI.com1), output: options.serialOutput });
    this.#rtc = new Rtc({ bus, irq: bus.irqLine(GSI.rtc), memory });
    this.keyboard = new I8042({ bus, irq: bus.irqLine(GSI.keyboard), onReset });
    this.power = new Power({
      bus,
      sci: bus.irqLine(GSI.sci),
      onPowerOff,
      onReset,
      // A kernel with a crash kernel loaded goes on in that one.
      onPanic: (event) => {
        if (event === 'panicked') options.onPanic();
      },
    });
    this.generation = new VmGeneration(this.ram.memory, () => this.power.generationChanged());
    this.#pciConfig = new PciConfigPorts({ bus, resetControl: this.power.resetControl });
    try {
      if (options.restore === undefined) {
        this.rsdp = this.#writeTables(options);
        this.#createProcessors(options);
      } else {
        this.rsdp = 0;
        this.#restore(options, options.restore.state);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  resume(): void {
    this.#rtc.resume();
    this.power.resume();
    this.#virtio.resume();
    this.vm.resume();
  }

  /** Resolves when no vCPU runs, no I/O is in flight and no device timer will fire. */
  async pause(): Promise<void> {
    await this.vm.pause();
    await this.#virtio.pause();
    this.#rtc.pause();
    this.power.pause();
  }

  /** All but RAM, as plain data. Only while paused. @throws KvmError */
  save(): EncodedBoardState {
    const msrs = [...this.#msrs];
    // The PM timer of the power block is a clock too.
    const { clock, tscs } = readTime(this.vm);
    const power = this.power.save();
    return {
      vcpus: this.vm.vcpus.map((vcpu, index) => saveVcpu(vcpu, msrs, tscs[index]!)),
      vm: saveVm(this.vm, clock),
      serial: this.serial.save(),
      rtc: this.#rtc.save(),
      keyboard: this.keyboard.save(),
      power,
      generation: this.generation.save(),
      pciConfig: this.#pciConfig.save(),
      virtio: this.#virtio.save(),
    };
  }

  /** Ends the vCPUs, hands out the last output and frees all. May be called again. */
  close(): void {
    this.vm.close();
    this.#virtio.close();
    this.serial.close();
    this.keyboard.close();
    this.#rtc.close();
    this.power.close();
    this.#pciConfig.close();
    this.ram.close();
  }

  #writeTables({ memory, cpus, uuid, generation }: BoardOptions): number {
    const acpi = buildAcpi({
      apicIds: Array.from({ length: cpus }, (_, index) => index),
      pvpanicPort: PORT.pvpanic,
      generation: this.generation.address,
      ...this.#virtio.acpi,
    });
    writeAcpi(this.ram.memory, acpi);
    this.generation.set(generation);
    writeSmbios(this.ram.memory, buildSmbios({ uuid, vcpus: cpus, memory: ramRanges(memory) }));
    return acpi.rsdp;
  }

  /**
   * Interrupt controllers come before the devices that drive their lines, and the clocks last: from then on they run.
   * @throws DeviceStateError
   */
  #restore({ kvm, cpus }: BoardOptions, state: BoardState): void {
    requireHost(kvm, state.vcpus);
    if (state.vcpus.length !== cpus)
      throw new DeviceStateError(`state of ${state.vcpus.length} vCPUs, not ${cpus}`);
    for (const vcpu of state.vcpus) restoreVcpu(this.vm.createVcpu(), vcpu);
    restoreChips(this.vm, state.vm);
    this.serial.restore(state.serial);
    this.#rtc.restore(state.rtc);
    this.keyboard.restore(state.keyboard);
    this.generation.restore(state.generation);
    this.#pciConfig.restore(state.pciConfig);
    this.#virtio.restore(state.virtio);
    this.power.restore(state.power);
    restoreClocks(this.vm, state.vm, state.vcpus);
  }

  #createProcessors({ kvm, cpus, cpu }: BoardOptions): void {
    const supported = kvm.supportedCpuid();
    const tscDeadline = this.vm.capability('KVM_CAP_TSC_DEADLINE_TIMER') > 0;
    for (let index = 0; index < cpus; index++) {
      const vcpu = this.vm.createVcpu();
      const tscKhz = this.vm.capability('KVM_CAP_GET_TSC_KHZ') > 0 ? vcpu.tscKhz() : undefined;
      vcpu.setCpuid(
        buildCpuid({
          supported,
          vcpus: cpus,
          index,
          tscDeadline,
          features: cpu,
          ...(tscKhz !== undefined && { tscKhz }),
        }),
      );
      setUpProcessor(vcpu);
    }
  }
}
