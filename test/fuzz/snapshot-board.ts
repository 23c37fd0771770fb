import { PCI_ECAM, PCI_MMIO32, VIRTIO_MMIO } from '../../src/boot/layout.ts';
import { BalloonDevice } from '../../src/devices/balloon/device.ts';
import { EntropyDevice } from '../../src/devices/rng/device.ts';
import type { GuestMemory } from '../../src/kvm/guest-memory.ts';
import type { BoardState } from '../../src/machine/board-state.ts';
import { I8042 } from '../../src/machine/i8042/device.ts';
import { PciConfigPorts } from '../../src/machine/pci/config-ports.ts';
import { PciRootBus } from '../../src/machine/pci/root-bus.ts';
import { Power } from '../../src/machine/power/device.ts';
import { Rtc } from '../../src/machine/rtc/device.ts';
import { Serial } from '../../src/machine/serial/device.ts';
import { VmGeneration } from '../../src/machine/vm-generation.ts';
import { MmioTransport } from '../../src/virtio/mmio-transport.ts';
import { PciTransport } from '../../src/virtio/pci-transport.ts';
import type { VirtioCore } from '../../src/virtio/transport.ts';
import { FakeIrq } from '../support/fake-bus.ts';
import { EchoDevice, FieldsDevice } from '../support/virtio/devices.ts';
import { FakeMachine } from '../support/virtio/machine.ts';
import type { Random } from './random.ts';

export const QUEUE_SIZE = 8;
/** what the rings of a queue lie in, one after the other, and where in it they are */
export const RINGS = { size: 0x100, driver: 0x80, device: 0xa0 } as const;
const DRIVER_OK = 0x0f;
const PORTS = [
  ...[0x60, 0x64, 0x70, 0x71, 0x92, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x505],
  ...[0x600, 0x602, 0x604, 0x608, 0x60c, 0x60d, 0xcf8, 0xcf9, 0xcfc, 0xcfe],
];
const SIZES = [1, 2, 4] as const;

type Devices = Omit<BoardState, 'vcpus' | 'vm'>;

/** The devices of a board, without KVM. */
export class SnapshotBoard {
  readonly #machine: FakeMachine;
  readonly #serial: Serial;
  readonly #rtc: Rtc;
  readonly #keyboard: I8042;
  readonly #power: Power;
  readonly #generation: VmGeneration;
  readonly #pciConfig: PciConfigPorts;
  readonly #cores: readonly VirtioCore[];
  readonly #virtio: { save(): unknown; restore(state: unknown): void; close(): void };

  constructor(memory: GuestMemory, transport: 'pci' | 'mmio') {
    const machine = (this.#machine = new FakeMachine(memory));
    const { bus, messages, notifier, defer, report } = machine;
    const irq = (): FakeIrq => new FakeIrq();
    const onReset = (): void => undefined;
    this.#serial = new Serial({ bus, irq: irq(), output: () => undefined });
    this.#rtc = new Rtc({ bus, irq: irq(), memory: memory.size, now: () => 1e12 });
    this.#keyboard = new I8042({ bus, irq: irq(), onReset });
    this.#power = new Power({ bus, sci: irq(), onReset, onPowerOff: onReset, onPanic: onReset });
    this.#generation = new VmGeneration(memory, () => this.#power.generationChanged());
    this.#pciConfig = new PciConfigPorts({ bus, resetControl: this.#power.resetControl });
    const devices = [
      new EntropyDevice({ name: 'rng0' }),
      new BalloonDevice({ name: 'balloon0', memory: memory.size }),
      new EchoDevice(),
      new FieldsDevice(),
    ];
    const common = { memory, notifier, defer, report };
    if (transport === 'pci') {
      const root = new PciRootBus({ bus, messages, interrupts: [{ gsi: 16, line: irq() }] });
      const functions = devices.map((device) => new PciTransport({ ...common, device }));
      for (const each of functions) root.add(each);
      this.#cores = functions.map(({ core }) => core);
      this.#virtio = root;
    } else {
      const slots = devices.map((device, index) => {
        const base = VIRTIO_MMIO.base + 0x1000 * index;
        return new MmioTransport({ ...common, device, bus, base, irq: irq(), gsi: 5 + index });
      });
      this.#cores = slots.map(({ core }) => core);
      this.#virtio = {
        save: () => slots.map((slot) => slot.save()),
        restore: (state) => {
          const states: unknown[] = Array.isArray(state) ? state : [];
          slots.forEach((slot, index) => slot.restore(states[index]));
        },
        close: () => undefined,
      };
    }
  }

  /** Brings the devices up as a guest does, with rings one after the other from `base` on; returns their end. */
  start(base: number): number {
    let rings = base;
    for (const core of this.#cores) {
      for (const status of [0, 1, 3]) core.writeStatus(status);
      for (const select of [0, 1]) {
        core.deviceFeatureSelect = core.driverFeatureSelect = select;
        core.writeDriverFeatures(core.deviceFeatures);
      }
      core.writeStatus(0x0b);
      core.device.queueSizes.forEach((_, index) => {
        core.queueSelect = index;
        core.writeQueueSize(QUEUE_SIZE);
        core.writeQueueAddress('descriptors', 0, rings);
        core.writeQueueAddress('driver', 0, rings + RINGS.driver);
        core.writeQueueAddress('device', 0, rings + RINGS.device);
        core.enableQueue();
        rings += RINGS.size;
      });
      core.writeStatus(DRIVER_OK);
      if (core.status !== DRIVER_OK) throw new Error(`${core.device.name} does not come up`);
    }
    this.#machine.settle();
    return rings;
  }

  async pause(): Promise<void> {
    for (const core of this.#cores) await core.pause();
    this.#rtc.pause();
    this.#power.pause();
  }

  resume(): void {
    this.#rtc.resume();
    this.#power.resume();
    for (const core of this.#cores) core.resume();
    this.#machine.settle();
  }

  save(): Devices {
    return {
      serial: this.#serial.save(),
      rtc: this.#rtc.save(),
      keyboard: this.#keyboard.save(),
      power: this.#power.save(),
      generation: this.#generation.save(),
      pciConfig: this.#pciConfig.save(),
      virtio: this.#virtio.save(),
    };
  }

  /** @throws DeviceStateError */
  restore(state: Devices): void {
    this.#serial.restore(state.serial);
    this.#rtc.restore(state.rtc);
    this.#keyboard.restore(state.keyboard);
    this.#power.restore(state.power);
    this.#generation.restore(state.generation);
    this.#pciConfig.restore(state.pciConfig);
    this.#virtio.restore(state.virtio);
  }

  /** A guest that goes on, and finds what nobody has thought of. */
  use(random: Random): void {
    for (let i = random.between(1, 12); i > 0; i--) {
      const size = random.pick(SIZES);
      const mmio = random.oneIn(2);
      const address = mmio ? this.#mmioAddress(random) : random.pick(PORTS);
      const space = mmio ? 'mmio' : 'pio';
      if (random.oneIn(2)) this.#machine.read(space, address, size);
      else this.#machine.write(space, address, size, random.word());
    }
    for (const core of this.#cores) core.notify(random.below(3));
    this.#machine.settle();
    this.#generation.change('00112233-4455-6677-8899-aabbccddeeff');
  }

  close(): void {
    for (const core of this.#cores) {
      void core.reset();
      core.device.quiesce?.();
      core.device.close?.();
    }
    this.#virtio.close();
    this.#serial.close();
    this.#keyboard.close();
    this.#rtc.close();
    this.#power.close();
    this.#pciConfig.close();
  }

  #mmioAddress(random: Random): number {
    const offset = 4 * random.below(64);
    switch (random.below(3)) {
      case 0:
        return PCI_ECAM.base + 0x8000 * random.below(6) + offset;
      case 1:
        return PCI_MMIO32.base + 0x1000 * random.below(64) + offset;
      default:
        return VIRTIO_MMIO.base + 0x1000 * random.below(5) + offset;
    }
  }
}
