import { GSI, KVM_IDENTITY_MAP, KVM_TSS, PORT, ramRanges } from '../boot/layout.ts';
import { GuestRam, type HugePages } from '../kvm/memory.ts';
import type { Kvm } from '../kvm/system.ts';
import { KvmVm } from '../kvm/vm.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import { buildAcpi, writeAcpi } from './acpi/tables.ts';
import { buildCpuid } from './cpuid/build.ts';
import { I8042 } from './i8042/device.ts';
import { PciConfigPorts } from './pci/config-ports.ts';
import { Power } from './power/device.ts';
import { setUpProcessor } from './processors.ts';
import { Rtc } from './rtc/device.ts';
import { Serial } from './serial/device.ts';
import { buildSmbios, writeSmbios } from './smbios/tables.ts';
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
  /** guest-physical address of ACPI's root pointer */
  readonly rsdp: number;
  /** what the kernel's command line has to say of devices */
  readonly kernelParameters: readonly string[];
  readonly #rtc: Rtc;
  readonly #virtio: VirtioBus;
  readonly #pciConfig: PciConfigPorts;

  /** @throws KvmError, CpuFeatureError, RangeError for too many devices; nothing is left open then */
  constructor(options: BoardOptions) {
    const { kvm, memory } = options;
    this.vm = new KvmVm(kvm, { identityMapAddress: KVM_IDENTITY_MAP, tssAddress: KVM_TSS });
    try {
      this.ram = new GuestRam({ ranges: ramRanges(memory), hugePages: options.hugePages ?? 'transparent' });
    } catch (error) {
      this.vm.close();
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
    this.#pciConfig = new PciConfigPorts({ bus, resetControl: this.power.resetControl });
    try {
      this.vm.mapRam(this.ram);
      this.rsdp = this.#writeTables(options);
      this.#createProcessors(options);
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

  #writeTables({ memory, cpus, uuid }: BoardOptions): number {
    const acpi = buildAcpi({
      apicIds: Array.from({ length: cpus }, (_, index) => index),
      pvpanicPort: PORT.pvpanic,
      ...this.#virtio.acpi,
    });
    writeAcpi(this.ram.memory, acpi);
    writeSmbios(this.ram.memory, buildSmbios({ uuid, vcpus: cpus, memory: ramRanges(memory) }));
    return acpi.rsdp;
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
