import { describe, expect, it } from 'vitest';
import { ACPI_TABLES, ACPI_TABLES_LIMIT, PORT, RESET_VALUE } from '../../../src/boot/layout.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { buildAcpi, writeAcpi, type AcpiConfig } from '../../../src/machine/acpi/tables.ts';
import { madtEntries, Parsed, sum } from './parse.ts';

const cpus = (count: number): AcpiConfig => ({ apicIds: Array.from({ length: count }, (_, i) => i) });
const LARGEST: AcpiConfig = {
  ...cpus(32),
  pciMmio64: { base: 2 ** 40, size: 2 ** 38 },
  virtioMmio: Array.from({ length: 32 }, (_, i) => ({
    base: 0xfeb0_0000 + 0x1000 * i,
    size: 0x1000,
    gsi: 5 + (i % 19),
  })),
  pciInterrupts: Array.from({ length: 128 }, (_, i) => ({ device: i >> 2, pin: i & 3, gsi: 16 + (i % 8) })),
  pvpanicPort: 0x505,
  generation: 0xe_f000,
};

describe.each([1, 2, 4, 32])('the tables of %i processors', (count) => {
  const acpi = buildAcpi(cpus(count));
  const parsed = new Parsed(acpi);

  it('start with the RSDP, where kernels scan for it', () => {
    expect(acpi.base).toBe(ACPI_TABLES);
    expect(acpi.rsdp).toBe(ACPI_TABLES);
    expect(acpi.rsdp % 16).toBe(0);
    expect(Buffer.from(parsed.rsdp.bytes.subarray(0, 8)).toString()).toBe('RSD PTR ');
    expect(parsed.rsdp.bytes[15]).toBe(2);
    expect(parsed.rsdp.view.getUint32(20, true)).toBe(36);
  });

  it('have right checksums', () => {
    expect(sum(parsed.rsdp.bytes.subarray(0, 20))).toBe(0);
    expect(sum(parsed.rsdp.bytes)).toBe(0);
    const tables = [
      parsed.xsdt,
      parsed.rsdt,
      ...['FACP', 'DSDT', 'APIC', 'MCFG'].map((s) => parsed.table(s)),
    ];
    expect(tables.map(({ bytes }) => sum(bytes))).toEqual(tables.map(() => 0));
  });

  it('are listed the same in XSDT and RSDT', () => {
    expect(parsed.xsdt.signature).toBe('XSDT');
    expect(parsed.rsdt.signature).toBe('RSDT');
    expect(parsed.listed).toEqual(parsed.listedIn32Bits);
    expect(parsed.listed.map((address) => parsed.at(address).signature)).toEqual(['FACP', 'APIC', 'MCFG']);
  });

  it('do not overlap', () => {
    const tables = [
      parsed.rsdp,
      parsed.xsdt,
      parsed.rsdt,
      ...['FACP', 'DSDT', 'FACS', 'APIC', 'MCFG'].map((signature) => parsed.table(signature)),
    ].sort((a, b) => a.address - b.address);
    for (const [i, { address, bytes }] of tables.entries()) {
      expect(address + bytes.length).toBeLessThanOrEqual(
        tables[i + 1]?.address ?? acpi.base + acpi.bytes.length,
      );
    }
  });

  it('have a local APIC for each processor, by UID', () => {
    const locals = madtEntries(parsed.table('APIC')).filter(({ type }) => type === 0);
    expect(locals.map(({ data }) => data)).toEqual(
      Array.from({ length: count }, (_, i) => [i, i, 1, 0, 0, 0]),
    );
  });
});

describe('the FADT', () => {
  const parsed = new Parsed(buildAcpi(cpus(1)));
  const { bytes, view } = parsed.table('FACP');
  const gas = (at: number): [space: number, bits: number, address: bigint] => [
    bytes[at]!,
    bytes[at + 1]!,
    view.getBigUint64(at + 4, true),
  ];

  it('is of revision 6.4 and full length', () => {
    expect(bytes[8]).toBe(6);
    expect(bytes[131]).toBe(4);
    expect(bytes.length).toBe(276);
  });

  it('names FACS and DSDT in 32 and in 64 bits', () => {
    expect(view.getUint32(36, true)).toBe(Number(view.getBigUint64(132, true)));
    expect(view.getUint32(40, true)).toBe(Number(view.getBigUint64(140, true)));
    expect(parsed.table('FACS').signature).toBe('FACS');
    expect(parsed.table('DSDT').signature).toBe('DSDT');
  });

  it('has the power management ports, in both forms', () => {
    expect(view.getUint32(56, true)).toBe(PORT.pm1aEvent);
    expect(view.getUint32(64, true)).toBe(PORT.pm1aControl);
    expect(view.getUint32(76, true)).toBe(PORT.pmTimer);
    expect(view.getUint32(80, true)).toBe(PORT.gpe0);
    expect([bytes[88], bytes[89], bytes[91], bytes[92]]).toEqual([4, 2, 4, 2]);
    expect(gas(148)).toEqual([1, 32, BigInt(PORT.pm1aEvent)]);
    expect(gas(172)).toEqual([1, 16, BigInt(PORT.pm1aControl)]);
    expect(gas(208)).toEqual([1, 32, BigInt(PORT.pmTimer)]);
    expect(gas(220)).toEqual([1, 16, BigInt(PORT.gpe0)]);
  });

  it('is reset through port 0xcf9', () => {
    expect(gas(116)).toEqual([1, 8, BigInt(PORT.reset)]);
    expect(bytes[128]).toBe(RESET_VALUE);
  });

  it('is in ACPI mode from the start: there is no SMI command port', () => {
    expect(view.getUint32(48, true)).toBe(0);
    expect([bytes[52], bytes[53]]).toEqual([0, 0]);
  });
});

it('FACS lies on a 64-byte boundary and leaves the global lock free', () => {
  const { address, bytes } = new Parsed(buildAcpi(cpus(3))).table('FACS');
  expect(address % 64).toBe(0);
  expect(bytes.length).toBe(64);
  expect(bytes[32]).toBe(2);
  expect([...bytes.subarray(8, 32)].every((byte) => byte === 0)).toBe(true);
});

describe('the MADT', () => {
  const { bytes, view } = new Parsed(buildAcpi(cpus(1))).table('APIC');
  const of = (type: number): number[][] =>
    madtEntries(new Parsed(buildAcpi(cpus(1))).table('APIC'))
      .filter((entry) => entry.type === type)
      .map(({ data }) => data);

  it('has the address of the local APICs, and says that there are two 8259s', () => {
    expect(view.getUint32(36, true)).toBe(0xfee0_0000);
    expect(view.getUint32(40, true)).toBe(1);
    expect(bytes[8]).toBe(5);
  });

  it('has one IOAPIC, id 0, from GSI 0 on', () => {
    expect(of(1)).toEqual([[0, 0, 0x00, 0x00, 0xc0, 0xfe, 0, 0, 0, 0]]);
  });

  it('moves the PIT to GSI 2 and has the SCI active-high and level-triggered', () => {
    expect(of(2)).toEqual([
      [0, 0, 2, 0, 0, 0, 0, 0],
      [0, 9, 9, 0, 0, 0, 0x0d, 0],
    ]);
  });

  it('has NMI on LINT1 of all processors', () => {
    expect(of(4)).toEqual([[0xff, 0, 0, 1]]);
  });

  it('uses x2APIC entries from id 255 on', () => {
    const entries = madtEntries(new Parsed(buildAcpi({ apicIds: [0, 254, 255, 0x1234_5678] })).table('APIC'));
    expect(entries.filter(({ type }) => type === 0).map(({ data }) => data.slice(0, 2))).toEqual([
      [0, 0],
      [1, 254],
    ]);
    expect(entries.filter(({ type }) => type === 9).map(({ data }) => data)).toEqual([
      [0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
      [0, 0, 0x78, 0x56, 0x34, 0x12, 1, 0, 0, 0, 3, 0, 0, 0],
    ]);
    expect(entries.filter(({ type }) => type === 10).map(({ data }) => data)).toEqual([
      [0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0],
    ]);
  });
});

it('the MCFG has bus 0 of segment 0, and no other', () => {
  const { bytes } = new Parsed(buildAcpi(cpus(1))).table('MCFG');
  expect([...bytes.subarray(44)]).toEqual([0, 0, 0, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
});

it('the largest machine fits', () => {
  const { bytes } = buildAcpi(LARGEST);
  expect(bytes.length).toBeLessThanOrEqual(ACPI_TABLES_LIMIT);
});

it('are written where they belong', () => {
  const memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(0x10_0000) }]);
  const acpi = buildAcpi(LARGEST);
  writeAcpi(memory, acpi);
  expect(memory.read(acpi.base, acpi.bytes.length)).toEqual(acpi.bytes);
});

describe('a wrong configuration is refused', () => {
  const virtio = { base: 0xfeb0_0000, size: 0x1000, gsi: 5 };
  it.each<[string, AcpiConfig, RegExp]>([
    ['no processors', cpus(0), /1 to 32 processors/],
    ['too many processors', cpus(33), /1 to 32 processors/],
    ['an APIC id twice', { apicIds: [1, 1] }, /one APIC id/],
    ['an APIC id that is none', { apicIds: [-1] }, /-1 is no APIC id/],
    ['the broadcast APIC id', { apicIds: [0xffff_ffff] }, /no APIC id/],
    ['a GSI that the IOAPIC has not', { ...cpus(1), virtioMmio: [{ ...virtio, gsi: 24 }] }, /24 is no GSI/],
    ['a transport above 4 GiB', { ...cpus(1), virtioMmio: [{ ...virtio, base: 2 ** 32 }] }, /does not fit/],
    ['PCI device 32', { ...cpus(1), pciInterrupts: [{ device: 32, pin: 0, gsi: 16 }] }, /device 32/],
    ['PCI pin 4', { ...cpus(1), pciInterrupts: [{ device: 0, pin: 4, gsi: 16 }] }, /pin 4/],
    [
      'two routes of one pin',
      {
        ...cpus(1),
        pciInterrupts: [
          { device: 1, pin: 0, gsi: 16 },
          { device: 1, pin: 0, gsi: 17 },
        ],
      },
      /two routes/,
    ],
    ['an empty 64-bit window', { ...cpus(1), pciMmio64: { base: 2 ** 40, size: 0 } }, /window/],
    ['a VM generation id across words', { ...cpus(1), generation: 0xe_f004 }, /VM generation id/],
    ['a port beyond 64 Ki', { ...cpus(1), pvpanicPort: 0x1_0000 }, /does not fit/],
  ])('%s', (_, config, message) => {
    expect(() => buildAcpi(config)).toThrow(RangeError);
    expect(() => buildAcpi(config)).toThrow(message);
  });
});
