/**
 * The table of interrupt routes of a VM (KVM_SET_GSI_ROUTING takes it whole): GSIs 0 to 23 go to the PICs and the
 * IOAPIC as on a PC, each MSI-X vector takes a GSI of its own above them.
 */

const IRQCHIP = 1;
const MSI = 2;
const PIC_MASTER = 0;
const PIC_SLAVE = 1;
const IOAPIC = 2;
const IOAPIC_PINS = 24;
const HEADER_SIZE = 8;
const ENTRY_SIZE = 48;
/** GSIs 0 to 15 have a route to a PIC, all but GSI 2 have one to the IOAPIC. */
const CHIP_ROUTES = 16 + IOAPIC_PINS - 1;
/** KVM_MAX_IRQ_ROUTES, less what the chips take */
const MESSAGE_LIMIT = 4096 - CHIP_ROUTES;

/** A message: a write of `data` to `address`. */
export type MsiMessage = { readonly addressLow: number; readonly addressHigh: number; readonly data: number };

export class IrqRouting {
  readonly #messages = new Map<number, MsiMessage>();
  readonly #set: (routing: Uint8Array) => void;

  /** @param set hands the kernel a new table */
  constructor(set: (routing: Uint8Array) => void) {
    this.#set = set;
  }

  /** Takes a free GSI for a message. @throws RangeError where all are taken */
  allocate(message: MsiMessage): number {
    if (this.#messages.size >= MESSAGE_LIMIT) throw new RangeError('the VM has no interrupt route left');
    let gsi = IOAPIC_PINS;
    while (this.#messages.has(gsi)) gsi++;
    this.update(gsi, message);
    return gsi;
  }

  /** Changes the message of a GSI that {@link allocate} gave. */
  update(gsi: number, message: MsiMessage): void {
    const before = this.#messages.get(gsi);
    if (
      before?.data === message.data &&
      before.addressLow === message.addressLow &&
      before.addressHigh === message.addressHigh
    ) {
      return;
    }
    this.#messages.set(gsi, message);
    this.apply();
  }

  free(gsi: number): void {
    if (this.#messages.delete(gsi)) this.apply();
  }

  /** Gives the kernel the table as it stands. */
  apply(): void {
    this.#set(this.encode());
  }

  /** struct kvm_irq_routing with its entries */
  encode(): Uint8Array {
    const entries: { gsi: number; type: number; words: [number, number, number] }[] = [];
    for (let gsi = 0; gsi < IOAPIC_PINS; gsi++) {
      if (gsi < 16)
        entries.push({ gsi, type: IRQCHIP, words: [gsi < 8 ? PIC_MASTER : PIC_SLAVE, gsi % 8, 0] });
      // ISA interrupt 0 (the PIT) is wired to pin 2: the MADT's override says the same.
      if (gsi !== 2) entries.push({ gsi, type: IRQCHIP, words: [IOAPIC, gsi === 0 ? 2 : gsi, 0] });
    }
    for (const [gsi, { addressLow, addressHigh, data }] of this.#messages) {
      entries.push({ gsi, type: MSI, words: [addressLow, addressHigh, data] });
    }
    const bytes = new Uint8Array(HEADER_SIZE + entries.length * ENTRY_SIZE);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, entries.length, true);
    entries.forEach(({ gsi, type, words }, i) => {
      const at = HEADER_SIZE + i * ENTRY_SIZE;
      view.setUint32(at, gsi, true);
      view.setUint32(at + 4, type, true);
      // after gsi, type, flags and padding comes the union, whose members start with 32-bit words
      words.forEach((word, n) => view.setUint32(at + 16 + 4 * n, word, true));
    });
    return bytes;
  }
}
