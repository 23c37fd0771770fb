import type { AccessSize, Bus, RegionHandle } from '../../kvm/bus.ts';
import { PCI_ECAM, PORT } from '../../boot/layout.ts';
import { checkPciConfigPortsState, type PciConfigPortsState } from './state.ts';

/** Configuration address: enable, bus, device and function, register. Reserved bits read as zero. */
const ENABLE = 0x8000_0000;
const BUS = 0x00ff_0000;
const FUNCTION = 0x0000_ff00;
const REGISTER = 0x0000_00fc;
const ADDRESS_BITS = (ENABLE | BUS | FUNCTION | REGISTER) >>> 0;
/** A function has 4 KiB of ECAM and 256 bytes here. */
const ECAM_SHIFT = 4;
const DATA = PORT.pciConfigData - PORT.pciConfigAddress;
const RESET = PORT.reset - PORT.pciConfigAddress;

export type PciConfigPortsOptions = {
  readonly bus: Bus;
  /** the byte register at port 0xcf9 */
  readonly resetControl: { read(): number; write(value: number): void };
};

/**
 * PCI configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2): an address latch that takes dwords
 * only, with the reset control register as a byte inside it, and a window of data. The window shows what ECAM has
 * of bus 0, so that a read through it waits no more than one there; other buses are empty.
 *
 * The reset control byte shares its place with the latch and so is trapped for reading, which nobody does often.
 */
export class PciConfigPorts {
  readonly #resetControl: PciConfigPortsOptions['resetControl'];
  readonly #region: RegionHandle;

  constructor({ bus, resetControl }: PciConfigPortsOptions) {
    this.#resetControl = resetControl;
    this.#region = bus.add({
      name: 'pci-config',
      space: 'pio',
      base: PORT.pciConfigAddress,
      size: 8,
      reads: ['shadow', 'trap', 'shadow', 'shadow', 'shadow', 'shadow', 'shadow', 'shadow'],
      writes: 'posted',
      window: {
        index: { offset: 0, size: 4 },
        data: { offset: DATA, size: 4 },
        space: 'mmio',
        base: PCI_ECAM.base,
        match: { mask: (ENABLE | BUS) >>> 0, value: ENABLE },
        address: [
          { mask: FUNCTION, shift: ECAM_SHIFT },
          { mask: REGISTER, shift: 0 },
        ],
      },
      read: (offset, size) => this.#read(offset, size),
      write: (offset, size, value) => {
        if (offset === RESET && size === 1) this.#resetControl.write(value);
      },
    });
    // what narrow reads of the address give
    this.#region.shadow.fill(0xff);
  }

  reset(): void {
    this.#region.index = 0;
  }

  save(): PciConfigPortsState {
    return { address: this.#address };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    this.#region.index = checkPciConfigPortsState(data).address;
  }

  close(): void {
    this.#region.remove();
  }

  get #address(): number {
    return (this.#region.index & ADDRESS_BITS) >>> 0;
  }

  #read(offset: number, size: AccessSize): number {
    if (offset === 0 && size === 4) return this.#address;
    return offset === RESET && size === 1 ? this.#resetControl.read() : 2 ** (8 * size) - 1;
  }
}
