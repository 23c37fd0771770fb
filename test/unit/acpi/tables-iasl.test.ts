import { describe, expect, it } from 'vitest';
import { buildAcpi, type AcpiConfig } from '../../../src/machine/acpi/tables.ts';
import { compile, disassemble, fieldOf, iaslMissing } from './iasl.ts';
import { Parsed } from './parse.ts';

const cpus = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const CONFIG: AcpiConfig = {
  apicIds: cpus(2),
  pciMmio64: { base: 0x80_0000_0000, size: 0x40_0000_0000 },
  virtioMmio: [
    { base: 0xfeb0_0000, size: 0x1000, gsi: 5 },
    { base: 0xfeb0_1000, size: 0x1000, gsi: 6 },
    { base: 0xfeb0_2000, size: 0x1000, gsi: 7 },
    { base: 0xfeb0_3000, size: 0x1000, gsi: 7 },
  ],
  pciInterrupts: [
    { device: 1, pin: 0, gsi: 16 },
    { device: 31, pin: 3, gsi: 23 },
  ],
  pvpanicPort: 0x505,
  generation: 0xe_f000,
};
const LARGEST: AcpiConfig = {
  ...CONFIG,
  apicIds: cpus(32),
  virtioMmio: cpus(32).map((i) => ({ base: 0xfeb0_0000 + 0x1000 * i, size: 0x1000, gsi: 5 + (i % 19) })),
  pciInterrupts: cpus(128).map((i) => ({ device: i >> 2, pin: i & 3, gsi: 16 + (i % 8) })),
};

const text = (config: AcpiConfig, signature: string): string =>
  disassemble(new Parsed(buildAcpi(config)).table(signature).bytes);

/** ASL without comments, each run of white space one blank. */
const plain = (asl: string): string =>
  asl
    .replace(/\/\*.*?\*\//gs, '')
    .replace(/\/\/.*$/gm, '')
    .replace(/\s+/g, ' ');

describe.skipIf(iaslMissing)('ACPI tables as iasl reads them (needs iasl)', () => {
  it.each<[string, AcpiConfig]>([
    ['one processor', { apicIds: cpus(1) }],
    ['two and some of everything', CONFIG],
    ['four processors', { apicIds: cpus(4) }],
    ['the largest machine', LARGEST],
  ])('the DSDT of %s compiles again without error, warning or remark', (_, config) => {
    const { messages } = compile(text(config, 'DSDT'));
    expect(messages).toContain('0 Errors, 0 Warnings, 0 Remarks');
  });

  it.each(['FACP', 'APIC', 'MCFG', 'FACS'])('%s compiles again to the same bytes', (signature) => {
    const table = new Parsed(buildAcpi(CONFIG)).table(signature).bytes.slice();
    const again = compile(disassemble(table)).aml;
    // The compiler signs with its own name and revision, and so with another checksum.
    const neutral = (bytes: Uint8Array): number[] =>
      [...bytes].map((byte, i) => (signature !== 'FACS' && (i === 9 || (i >= 28 && i < 36)) ? 0 : byte));
    expect(neutral(again)).toEqual(neutral(table));
  });

  it('the FADT describes fixed hardware without SMM', () => {
    const fadt = text(CONFIG, 'FACP');
    const expected: Record<string, string> = {
      'SCI Interrupt': '0009',
      'SMI Command Port': '00000000',
      'PM1A Event Block Address': '00000600',
      'PM1A Control Block Address': '00000604',
      'PM Timer Block Address': '00000608',
      'GPE0 Block Address': '0000060C',
      'GPE0 Block Length': '02',
      'GPE1 Block Length': '00',
      'Legacy Devices Supported (V2)': '1',
      '8042 Present on ports 60/64 (V2)': '1',
      'VGA Not Present (V4)': '1',
      'MSI Not Supported (V4)': '0',
      'PCIe ASPM Not Supported (V4)': '0',
      'CMOS RTC Not Present (V5)': '0',
      'WBINVD instruction is operational (V1)': '1',
      'All CPUs support C1 (V1)': '1',
      'Control Method Power Button (V1)': '0',
      'Control Method Sleep Button (V1)': '1',
      'RTC wake not in fixed reg space (V1)': '1',
      'RTC can wake system from S4 (V1)': '0',
      '32-bit PM Timer (V1)': '1',
      'Reset Register Supported (V2)': '1',
      'Hardware Reduced (V5)': '0',
      'Value to cause reset': '06',
      'FADT Minor Revision': '04',
    };
    expect(Object.fromEntries(Object.keys(expected).map((label) => [label, fieldOf(fadt, label)]))).toEqual(
      expected,
    );
  });

  it('the MADT has the processors, the IOAPIC and the overrides', () => {
    const madt = text(CONFIG, 'APIC');
    expect(fieldOf(madt, 'Local Apic Address')).toBe('FEE00000');
    expect([0, 1].map((i) => fieldOf(madt, 'Local Apic ID', i))).toEqual(['00', '01']);
    expect([0, 1].map((i) => fieldOf(madt, 'Processor Enabled', i))).toEqual(['1', '1']);
    expect(fieldOf(madt, 'Address')).toBe('FEC00000');
    // the first line of that name is the IOAPIC's
    expect([0, 1].map((i) => [fieldOf(madt, 'Source', i), fieldOf(madt, 'Interrupt', i + 1)])).toEqual([
      ['00', '00000002'],
      ['09', '00000009'],
    ]);
    expect([0, 1].map((i) => [fieldOf(madt, 'Polarity', i), fieldOf(madt, 'Trigger Mode', i)])).toEqual([
      ['0', '0'],
      ['1', '3'],
    ]);
    expect(fieldOf(madt, 'Interrupt Input LINT')).toBe('01');
  });

  it('the MCFG has the ECAM', () => {
    const mcfg = text(CONFIG, 'MCFG');
    expect(fieldOf(mcfg, 'Base Address')).toBe('00000000E0000000');
    expect(fieldOf(mcfg, 'Segment Group Number')).toBe('0000');
    expect([fieldOf(mcfg, 'Start Bus Number'), fieldOf(mcfg, 'End Bus Number')]).toEqual(['00', '00']);
  });
});

describe.skipIf(iaslMissing)('the DSDT as iasl reads it (needs iasl)', () => {
  const dsdt = iaslMissing ? '' : plain(text(CONFIG, 'DSDT'));
  /** a device's braces and what is between them */
  const device = (name: string): string => {
    const start = dsdt.indexOf(`Device (${name})`);
    expect(start, `Device (${name})`).toBeGreaterThan(0);
    let depth = 0;
    for (let at = dsdt.indexOf('{', start); ; at++) {
      if (dsdt[at] === '{') depth++;
      if (dsdt[at] === '}') depth--;
      if (depth === 0) return dsdt.slice(start, at + 1);
    }
  };

  it('turns off with SLP_TYP 5', () => {
    expect(dsdt).toContain('Name (\\_S5, Package (0x04) { 0x05, 0x05, Zero, Zero })');
  });

  it('has a processor device for each UID of the MADT', () => {
    expect(device('C000')).toMatch(/Name \(_HID, "ACPI0007" \) Name \(_UID, Zero\)/);
    expect(device('C001')).toMatch(/Name \(_HID, "ACPI0007" \) Name \(_UID, One\)/);
    expect(dsdt).not.toContain('Device (C002)');
  });

  it('has a PCI Express host bridge', () => {
    const bridge = device('PCI0');
    expect(bridge).toContain('Name (_HID, EisaId ("PNP0A08") )');
    expect(bridge).toContain('Name (_CID, EisaId ("PNP0A03") )');
    for (const name of ['_UID', '_SEG', '_BBN']) expect(bridge).toContain(`Name (${name}, Zero)`);
  });

  it.each([
    ['bus numbers', /WordBusNumber \([^)]*0x0000, 0x0000, 0x0000, 0x0000, 0x0001,/],
    ['configuration ports', /IO \(Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08, \)/],
    ['ports below them', /WordIO \([^)]*0x0000, 0x0000, 0x0CF7, 0x0000, 0x0CF8,/],
    ['ports above them', /WordIO \([^)]*0x0000, 0x0D00, 0xFFFF, 0x0000, 0xF300,/],
    ['memory below 4 GiB', /DWordMemory \([^)]*0x00000000, 0xC0000000, 0xDFFFFFFF, 0x00000000, 0x20000000,/],
    [
      'memory above',
      /QWordMemory \([^)]*0x0000008000000000, 0x000000BFFFFFFFFF, 0x0000000000000000, 0x0000004000000000,/,
    ],
  ])('gives the host bridge %s', (_, pattern) => {
    expect(device('PCI0')).toMatch(pattern);
  });

  it('leaves the 64-bit window out where there is none', () => {
    expect(text({ apicIds: [0] }, 'DSDT')).not.toContain('QWordMemory');
  });

  it('routes INTx by GSI', () => {
    expect(device('PCI0')).toContain(
      'Name (_PRT, Package (0x02) { Package (0x04) { 0x0001FFFF, Zero, Zero, 0x10 }, ' +
        'Package (0x04) { 0x001FFFFF, 0x03, Zero, 0x17 } })',
    );
  });

  it('grants PCI Express control through _OSC, without hot-plug', () => {
    expect(device('PCI0')).toContain(
      'Method (_OSC, 4, Serialized) { CreateDWordField (Arg3, Zero, CDW1) ' +
        'If ((Arg0 == ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766") )) { CreateDWordField (Arg3, 0x08, CDW3) ' +
        'Local0 = (CDW3 & 0x3C) If ((Arg1 != One)) { CDW1 |= 0x08 } If ((CDW3 != Local0)) { CDW1 |= 0x10 } ' +
        'CDW3 = Local0 } Else { CDW1 |= 0x04 } Return (Arg3) }',
    );
  });

  it('reserves the ECAM as motherboard resource', () => {
    expect(device('MBRD')).toMatch(/PNP0C02.*Memory32Fixed \(ReadWrite, 0xE0000000, 0x00100000, \)/);
  });

  it.each([
    ['COM1', 'PNP0501', /0x03F8, 0x03F8, 0x01, 0x08, \) IRQNoFlags \(\) \{4\}/],
    ['RTC0', 'PNP0B00', /0x0070, 0x0070, 0x01, 0x02, \) IRQNoFlags \(\) \{8\}/],
  ])('has %s as %s', (name, id, resources) => {
    expect(device(name)).toContain(`EisaId ("${id}")`);
    expect(device(name)).toMatch(resources);
  });

  it('has the panic device only where it is asked for', () => {
    expect(device('PEVT')).toMatch(/"QEMU0001".*_STA, 0x0B.*0x0505, 0x0505, 0x01, 0x01/);
    expect(text({ apicIds: [0] }, 'DSDT')).not.toContain('QEMU0001');
  });

  it('has the VM generation id by the names of its specification, at an address of two halves', () => {
    const vgen = device('VGEN');
    expect(vgen).toContain('Name (_CID, Package (0x02) { "VM_Gen_Counter", "VMGENCTR" })');
    expect(vgen).toContain('Name (_DDN, "VM_Gen_Counter")');
    expect(vgen).toContain('Name (ADDR, Package (0x02) { 0x000EF000, Zero })');
    const above = plain(text({ apicIds: [0], generation: 0x12_3456_7890 }, 'DSDT'));
    expect(above).toContain('Name (ADDR, Package (0x02) { 0x34567890, 0x12 })');
  });

  it('tells of another VM generation id by general-purpose event 0', () => {
    expect(dsdt).toContain('Scope (\\_GPE) { Method (_E00, 0, NotSerialized)');
    expect(dsdt).toMatch(/_E00[^{]*\{ Notify \(\\_SB\.VGEN, 0x80\)/);
  });

  it('has no VM generation id where it is told of none', () => {
    expect(text({ apicIds: [0] }, 'DSDT')).not.toMatch(/VGEN|_GPE/);
  });

  it('has virtio-mmio transports, their interrupts shared where two have one GSI', () => {
    expect(device('VR00')).toMatch(
      /"LNRO0005".*_UID, Zero.*Memory32Fixed \(ReadWrite, 0xFEB00000, 0x00001000, \)/,
    );
    expect(device('VR00')).toMatch(
      /Interrupt \(ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, \) \{ 0x00000005, \}/,
    );
    expect(device('VR01')).toMatch(
      /Interrupt \(ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, \) \{ 0x00000006, \}/,
    );
    expect(device('VR03')).toMatch(
      /Interrupt \(ResourceConsumer, Edge, ActiveHigh, Shared, ,, \) \{ 0x00000007, \}/,
    );
  });
});
