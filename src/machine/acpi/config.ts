import { MAX_VCPUS, type MemoryRange } from '../../boot/layout.ts';

/** A virtio-mmio transport. */
export type VirtioMmioDevice = {
  /** guest-physical address of its registers, below 4 GiB */
  readonly base: number;
  /** in bytes */
  readonly size: number;
  /** edge-triggered, active-high */
  readonly gsi: number;
};

/** Where a PCI function's INTx goes. */
export type PciInterrupt = {
  /** device number on bus 0, 0 to 31 */
  readonly device: number;
  /** 0 to 3 for INTA# to INTD# */
  readonly pin: number;
  readonly gsi: number;
};

/** What differs from machine to machine; all else is in src/boot/layout.ts. */
export type AcpiConfig = {
  /** local APIC ids, one a vCPU; its place in the list is the ACPI processor UID. 1 to {@link MAX_VCPUS} of them */
  readonly apicIds: readonly number[];
  /** a window for PCI BARs above 4 GiB */
  readonly pciMmio64?: MemoryRange;
  readonly virtioMmio?: readonly VirtioMmioDevice[];
  /** at most one for each pin of a device */
  readonly pciInterrupts?: readonly PciInterrupt[];
  /** port of the panic notification device; without it the guest is told of none */
  readonly pvpanicPort?: number;
  /** guest-physical address of the VM generation id; without it the guest is told of none */
  readonly generation?: number;
};

const isUnsigned = (value: number, limit: number): boolean =>
  Number.isInteger(value) && value >= 0 && value < limit;

/** GSIs of KVM's IOAPIC. */
const GSI_LIMIT = 24;

/** @throws RangeError naming what is wrong */
export function checkAcpiConfig(config: AcpiConfig): void {
  const { apicIds, pciMmio64, virtioMmio = [], pciInterrupts = [], generation } = config;
  const fail = (message: string): never => {
    throw new RangeError(`ACPI: ${message}`);
  };
  if (apicIds.length < 1 || apicIds.length > MAX_VCPUS)
    fail(`1 to ${MAX_VCPUS} processors, not ${apicIds.length}`);
  for (const id of apicIds) if (!isUnsigned(id, 0xffff_ffff)) fail(`${id} is no APIC id`);
  if (new Set(apicIds).size !== apicIds.length) fail('two processors have one APIC id');
  if (pciMmio64 !== undefined) {
    const { base, size } = pciMmio64;
    if (!(isUnsigned(base, 2 ** 53) && size > 0 && isUnsigned(base + size, 2 ** 53)))
      fail('no window for PCI BARs');
  }
  if (generation !== undefined && !(isUnsigned(generation, 2 ** 53) && generation % 8 === 0))
    fail(`no address of a VM generation id: ${generation}`);
  for (const { gsi } of [...virtioMmio, ...pciInterrupts]) {
    if (!isUnsigned(gsi, GSI_LIMIT)) fail(`${gsi} is no GSI of the IOAPIC`);
  }
  for (const { device, pin } of pciInterrupts) {
    if (!isUnsigned(device, 32) || !isUnsigned(pin, 4)) fail(`no PCI pin: device ${device} pin ${pin}`);
  }
  if (new Set(pciInterrupts.map(({ device, pin }) => 4 * device + pin)).size !== pciInterrupts.length) {
    fail('two routes for one PCI pin');
  }
}
