import type { AccessSize, Bus, RegionHandle } from '../../kvm/bus.ts';
import { PORT } from '../../boot/layout.ts';
import { checkPciConfigPortsState, type PciConfigPortsState } from './state.ts';

const ENABLE = 0x8000_0000;
/** bus, device, function and dword of the configuration address; reserved bits read as zero */
const ADDRESS_BITS = 0x80ff_fffc;
const DATA = PORT.pciConfigData - PORT.pciConfigAddress;
const RESET = PORT.reset - PORT.pciConfigAddress;

/**
 * PCI configuration space. `address` is bus << 16 | device << 11 | function << 8 | register byte; an access lies
 * within one dword. Where no device is, reads are all ones and writes have no effect.
 */
export type PciConfigSpace = {
  read(address: number, size: AccessSize): number;
  write(address: number, size: AccessSize, value: number): void;
};

export type PciConfigPortsOptions = {
  readonly bus: Bus;
  /** the byte register at port 0xcf9 */
  readonly resetControl: { read(): number; write(value: number): void };
  /** without one there is no PCI device */
  readonly configSpace?: PciConfigSpace;
};

/**
 * PCI configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2): an address latch that takes dwords
 * only, with the reset control register as a byte inside it, and a window of data.
 *
 * The address is posted, so that a configuration read waits once, for its data. The reset control byte shares its
 * place with the latch and so is trapped for reading, which nobody does often.
 */
export class PciConfigPorts {
  readonly #resetControl: PciConfigPortsOptions['resetControl'];
  readonly #configSpace: PciConfigSpace | undefined;
  readonly #region: RegionHandle;
  #address = 0;

  constructor({ bus, resetControl, configSpace }: PciConfigPortsOptions) {
    this.#resetControl = resetControl;
    this.#configSpace = configSpace;
    const dataRead = configSpace ? 'trap' : 'shadow';
    const dataWrite = configSpace ? 'trap' : 'ignore';
    this.#region = bus.add({
      name: 'pci-config',
      space: 'pio',
      base: PORT.pciConfigAddress,
      size: 8,
      reads: ['shadow', 'trap', 'shadow', 'shadow', dataRead, dataRead, dataRead, dataRead],
      writes: ['posted', 'posted', 'posted', 'posted', dataWrite, dataWrite, dataWrite, dataWrite],
      read: (offset, size) => this.#read(offset, size),
      write: (offset, size, value) => this.#write(offset, size, value),
    });
    // All ones: what narrow reads of the address and, without devices, reads of the data give.
    this.#region.shadow.fill(0xff);
  }

  reset(): void {
    this.#address = 0;
  }

  save(): PciConfigPortsState {
    return { address: this.#address };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    this.#address = (checkPciConfigPortsState(data).address & ADDRESS_BITS) >>> 0;
  }

  close(): void {
    this.#region.remove();
  }

  #read(offset: number, size: AccessSize): number {
    const ones = 2 ** (8 * size) - 1;
    if (offset >= DATA) {
      const address = this.#dataAddress(offset, size);
      return address === undefined ? ones : (this.#configSpace?.read(address, size) ?? ones);
    }
    if (offset === 0 && size === 4) return this.#address;
    return offset === RESET && size === 1 ? this.#resetControl.read() : ones;
  }

  #write(offset: number, size: AccessSize, value: number): void {
    if (offset >= DATA) {
      const address = this.#dataAddress(offset, size);
      if (address !== undefined) this.#configSpace?.write(address, size, value);
    } else if (offset === 0 && size === 4) {
      this.#address = (value & ADDRESS_BITS) >>> 0;
    } else if (offset === RESET && size === 1) {
      this.#resetControl.write(value);
    }
  }

  #dataAddress(offset: number, size: AccessSize): number | undefined {
    const byte = offset - DATA;
    if ((this.#address & ENABLE) === 0 || byte + size > 4) return undefined;
    return (this.#address & ~ENABLE) | byte;
  }
}
