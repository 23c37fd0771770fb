/** The definition block of the board: what devices there are and where, as far as they cannot be probed. */

import { GPE, GSI, PCI_ECAM, PCI_MMIO32, PORT, SLEEP_TYPE } from '../../boot/layout.ts';
import * as aml from './aml.ts';
import type { Term } from './aml.ts';
import type { AcpiConfig, PciInterrupt, VirtioMmioDevice } from './config.ts';
import * as resource from './resources.ts';

const hid = (id: string): Term => aml.name('_HID', aml.hardwareId(id));
const uid = (value: number): Term => aml.name('_UID', aml.integer(value));
const crs = (...descriptors: readonly Term[]): Term =>
  aml.name('_CRS', resource.resourceTemplate(...descriptors));

const numbered = (prefix: string, index: number): string =>
  prefix +
  index
    .toString(16)
    .toUpperCase()
    .padStart(4 - prefix.length, '0');

/** The definition block's terms, without the table header. */
export function dsdtBody(config: AcpiConfig): Term {
  return aml.concat(
    // SLP_TYPa and SLP_TYPb, two reserved (ACPI 6.4, 7.4.2 "System \_Sx states")
    aml.name('\\_S5', aml.pkg(...[SLEEP_TYPE.s5, SLEEP_TYPE.s5, 0, 0].map(aml.integer))),
    aml.scope(
      '\\_SB',
      ...config.apicIds.map((_, index) => processor(index)),
      hostBridge(config),
      // ECAM lies in no window of the host bridge, a motherboard resource reserves it (PCI Firmware 3.3, 4.1.2).
      aml.device('MBRD', hid('PNP0C02'), uid(0), crs(resource.memory32(PCI_ECAM.base, PCI_ECAM.size))),
      aml.device('COM1', hid('PNP0501'), uid(0), crs(resource.ioPorts(PORT.com1, 8), resource.irq(GSI.com1))),
      aml.device('RTC0', hid('PNP0B00'), crs(resource.ioPorts(PORT.cmosIndex, 2), resource.irq(GSI.rtc))),
      // The keyboard controller is named by the FADT alone: beside a PNP0303 without a mouse port Linux warns of that.
      ...(config.pvpanicPort === undefined ? [] : [pvpanic(config.pvpanicPort)]),
      ...(config.generation === undefined ? [] : [generation(config.generation)]),
      ...virtioMmioDevices(config.virtioMmio ?? []),
    ),
    ...(config.generation === undefined ? [] : [generationEvent()]),
  );
}

/** A processor device (ACPI 6.4, 8.4); the MADT entry with the same UID has its APIC id. */
function processor(index: number): Term {
  return aml.device(numbered('C', index), hid('ACPI0007'), uid(index));
}

function hostBridge({ pciMmio64, pciInterrupts = [] }: AcpiConfig): Term {
  const afterConfig = PORT.pciConfigAddress + 8;
  return aml.device(
    'PCI0',
    hid('PNP0A08'),
    aml.name('_CID', aml.hardwareId('PNP0A03')),
    uid(0),
    aml.name('_SEG', aml.integer(0)),
    aml.name('_BBN', aml.integer(0)),
    crs(
      resource.wordBusNumbers({ base: 0, size: PCI_ECAM.size / 0x10_0000 }),
      resource.ioPorts(PORT.pciConfigAddress, 8),
      resource.wordIoWindow({ base: 0, size: PORT.pciConfigAddress }),
      resource.wordIoWindow({ base: afterConfig, size: 0x1_0000 - afterConfig }),
      resource.dwordMemoryWindow(PCI_MMIO32),
      ...(pciMmio64 === undefined ? [] : [resource.qwordMemoryWindow(pciMmio64)]),
    ),
    operatingSystemCapabilities(),
    ...(pciInterrupts.length === 0 ? [] : [routingTable(pciInterrupts)]),
  );
}

/** Interrupts are wired to the IOAPIC, no link device in between (ACPI 6.4, 6.2.13 "_PRT"). */
function routingTable(routes: readonly PciInterrupt[]): Term {
  const anyFunction = 0xffff;
  return aml.name(
    '_PRT',
    aml.pkg(
      ...routes.map(({ device, pin, gsi }) =>
        aml.pkg(...[device * 0x1_0000 + anyFunction, pin, 0, gsi].map(aml.integer)),
      ),
    ),
  );
}

const PCI_HOST_BRIDGE = '33db4d5b-1ff7-401c-9657-7441c03dd766';
/** status bits in the first dword (ACPI 6.4, 6.2.11.1) */
const UNRECOGNIZED_UUID = 0x04;
const UNRECOGNIZED_REVISION = 0x08;
const CAPABILITIES_MASKED = 0x10;
/**
 * What the operating system may control: PME (bit 2), AER (3), the PCI Express capability structure (4) and LTR (5);
 * no hot-plug of either kind (PCI Firmware 3.3, 4.5.1).
 */
const GRANTED = 0x3c;

/** _OSC for the PCI host bridge (ACPI 6.4, 6.2.11.3): arguments UUID, revision, count, capabilities. */
function operatingSystemCapabilities(): Term {
  const [status, control] = [aml.path('CDW1'), aml.path('CDW3')];
  const capabilities = aml.arg(3);
  const granted = aml.local(0);
  const report = (bit: number): Term => aml.or(status, aml.integer(bit), status);
  return aml.method(
    '_OSC',
    { args: 4, serialized: true },
    aml.createDWordField(capabilities, aml.integer(0), 'CDW1'),
    aml.ifThen(
      aml.equal(aml.arg(0), aml.uuid(PCI_HOST_BRIDGE)),
      aml.createDWordField(capabilities, aml.integer(8), 'CDW3'),
      aml.and(control, aml.integer(GRANTED), granted),
      aml.ifThen(aml.notEqual(aml.arg(1), aml.integer(1)), report(UNRECOGNIZED_REVISION)),
      aml.ifThen(aml.notEqual(control, granted), report(CAPABILITIES_MASKED)),
      aml.store(granted, control),
    ),
    aml.elseThen(report(UNRECOGNIZED_UUID)),
    aml.ret(capabilities),
  );
}

/** The panic notification device: present, enabled and working, not shown to users (_STA bit 2). */
function pvpanic(port: number): Term {
  return aml.device(
    'PEVT',
    hid('QEMU0001'),
    aml.name('_STA', aml.integer(0x0b)),
    crs(resource.ioPorts(port, 1)),
  );
}

/**
 * The VM generation id (Microsoft, "Virtual Machine Generation ID", 2012): what ADDR names, as its low and its high
 * half, holds another value once the machine has been copied. The first _CID is that of the specification, the second
 * one that of Hyper-V since, which is as short as ACPI has it.
 */
function generation(address: number): Term {
  return aml.device(
    'VGEN',
    hid('TSVM0001'),
    aml.name('_CID', aml.pkg(aml.string('VM_Gen_Counter'), aml.string('VMGENCTR'))),
    aml.name('_DDN', aml.string('VM_Gen_Counter')),
    aml.name('ADDR', aml.pkg(aml.integer(address % 2 ** 32), aml.integer(Math.floor(address / 2 ** 32)))),
  );
}

/** The event of an edge: its status is clear before the method runs (ACPI 6.4, 5.6.4.1). */
function generationEvent(): Term {
  const changed = aml.integer(0x80);
  const event = `_E${GPE.generation.toString(16).toUpperCase().padStart(2, '0')}`;
  return aml.scope('\\_GPE', aml.method(event, {}, aml.notify(aml.path('\\_SB.VGEN'), changed)));
}

function virtioMmioDevices(devices: readonly VirtioMmioDevice[]): Term[] {
  return devices.map(({ base, size, gsi }, index) => {
    const shared = devices.filter((other) => other.gsi === gsi).length > 1;
    return aml.device(
      numbered('VR', index),
      hid('LNRO0005'),
      uid(index),
      crs(resource.memory32(base, size), resource.interrupts({ trigger: 'edge', shared }, gsi)),
    );
  });
}
