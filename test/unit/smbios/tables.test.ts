import { describe, expect, it } from 'vitest';
import { ramRanges, SMBIOS, SMBIOS_LIMIT } from '../../../src/boot/layout.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { buildSmbios, writeSmbios, type SmbiosConfig } from '../../../src/machine/smbios/tables.ts';
import { parseSmbios, type ParsedStructure } from './parse.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const TIB = 2 ** 40;
const UUID = '12345678-9abc-def0-1122-334455667788';
const CONFIG: SmbiosConfig = { uuid: UUID, vcpus: 1, memory: ramRanges(512 * MIB) };

const parse = (config: Partial<SmbiosConfig> = {}): ParsedStructure[] =>
  parseSmbios(buildSmbios({ ...CONFIG, ...config })).structures;
const ofType = (type: number, config: Partial<SmbiosConfig> = {}): ParsedStructure => {
  const found = parse(config).filter((structure) => structure.type === type);
  expect(found).toHaveLength(1);
  return found[0]!;
};

describe('the entry point', () => {
  const smbios = buildSmbios(CONFIG);
  const { address, entryPoint } = parseSmbios(smbios);
  const bytes = new Uint8Array(entryPoint.buffer);

  it('lies on a 16-byte boundary where kernels scan', () => {
    expect(address).toBe(SMBIOS);
    expect(address % 16).toBe(0);
  });

  it('has a right checksum over its length', () => {
    expect(bytes[6]).toBe(0x18);
    expect(bytes.reduce((sum, byte) => sum + byte, 0) % 256).toBe(0);
  });

  it('is of version 3.3 and revision 1', () => {
    expect([...bytes.subarray(7, 11)]).toEqual([3, 3, 0, 1]);
  });
});

it('every structure has a handle of its own', () => {
  const handles = parse({ memory: ramRanges(6 * GIB) }).map(({ handle }) => handle);
  expect(new Set(handles).size).toBe(handles.length);
});

it('has the structures that are required, the end last', () => {
  expect(parse().map(({ type }) => type)).toEqual([0, 1, 3, 4, 16, 17, 19, 32, 127]);
});

describe('type 0', () => {
  it('has a release date of this century, as Linux reads it', () => {
    const date = ofType(0).string(8);
    expect(date).toMatch(/^\d\d\/\d\d\/\d{4}$/);
    expect(Number(date!.slice(6))).toBeGreaterThanOrEqual(2001);
  });

  it('says that this is a virtual machine', () => {
    expect(ofType(0).view.getUint8(0x13) & 0x10).toBe(0x10);
  });
});

describe('type 1', () => {
  it('has tsvm as manufacturer and product, no serial number', () => {
    const system = ofType(1);
    expect([4, 5, 6, 7].map((at) => system.string(at))).toEqual(['tsvm', 'tsvm', undefined, undefined]);
  });

  it('has the UUID with its first fields little-endian', () => {
    const { view } = ofType(1);
    expect(Array.from({ length: 16 }, (_, i) => view.getUint8(8 + i))).toEqual([
      0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
    ]);
  });

  it('takes all strings from the configuration', () => {
    const serial = 'ds=nocloud;s=http://10.0.2.2:8000/seed/;h=guest';
    const system = ofType(1, {
      manufacturer: 'maker',
      product: 'product',
      version: '1.2.3',
      serial,
      sku: 'sku',
      family: 'family',
    });
    expect([4, 5, 6, 7, 0x19, 0x1a].map((at) => system.string(at))).toEqual([
      'maker',
      'product',
      '1.2.3',
      serial,
      'sku',
      'family',
    ]);
  });
});

describe('type 4', () => {
  it.each([1, 2, 4, 32])('has %i cores, one thread a core', (vcpus) => {
    const { view } = ofType(4, { vcpus });
    expect([0x23, 0x24, 0x25].map((at) => view.getUint8(at))).toEqual([vcpus, vcpus, vcpus]);
    expect([0x2a, 0x2c, 0x2e].map((at) => view.getUint16(at, true))).toEqual([vcpus, vcpus, vcpus]);
    // bit 2: 64-bit; bit 3: multi-core
    expect(view.getUint16(0x26, true)).toBe(vcpus > 1 ? 0x0c : 0x04);
  });

  it('leaves counts above 254 to the 16-bit fields', () => {
    const { view } = ofType(4, { vcpus: 300 });
    expect(view.getUint8(0x23)).toBe(0xff);
    expect(view.getUint16(0x2a, true)).toBe(300);
  });

  it('has the model and its frequency', () => {
    const cpu = ofType(4, { processor: { manufacturer: 'AuthenticAMD', version: 'EPYC', mhz: 2450 } });
    expect([cpu.string(7), cpu.string(0x10)]).toEqual(['AuthenticAMD', 'EPYC']);
    expect([cpu.view.getUint16(0x14, true), cpu.view.getUint16(0x16, true)]).toEqual([2450, 2450]);
  });
});

describe('memory', () => {
  it.each([
    // [bytes, capacity in KiB, extended, size in MiB, extended]
    [32 * MIB, 32 * 1024, 0n, 32, 0],
    [32 * GIB - MIB, 32 * MIB - 1024, 0n, 0x7fff, 0x7fff],
    [64 * GIB, 64 * MIB, 0n, 0x7fff, 64 * 1024],
    [2 * TIB, 0x8000_0000, BigInt(2 * TIB), 0x7fff, 2 * MIB],
  ])('of %i bytes is told in the right fields', (size, kib, extendedCapacity, mib, extendedSize) => {
    const memory = ramRanges(size);
    const array = ofType(16, { memory }).view;
    expect([array.getUint32(7, true), array.getBigUint64(0x0f, true)]).toEqual([kib, extendedCapacity]);
    const device = ofType(17, { memory }).view;
    expect([device.getUint16(0x0c, true), device.getUint32(0x1c, true)]).toEqual([mib, extendedSize]);
  });

  it('is mapped below and above the PCI hole', () => {
    const ranges = parse({ memory: ramRanges(6 * GIB) }).filter(({ type }) => type === 19);
    expect(ranges.map(({ view }) => [view.getUint32(4, true), view.getUint32(8, true)])).toEqual([
      [0, 3 * MIB - 1],
      [4 * MIB, 7 * MIB - 1],
    ]);
  });

  it('ends beyond 4 TiB in the extended fields', () => {
    const [, high] = parse({ memory: ramRanges(5 * TIB) }).filter(({ type }) => type === 19);
    expect([high!.view.getUint32(4, true), high!.view.getUint32(8, true)]).toEqual([
      0xffff_ffff, 0xffff_ffff,
    ]);
    expect(high!.view.getBigUint64(0x0f, true)).toBe(BigInt(4 * GIB));
    expect(high!.view.getBigUint64(0x17, true)).toBe(BigInt(5 * TIB + GIB - 1));
  });

  it('belongs to the array', () => {
    const { handle } = ofType(16);
    expect(ofType(17).view.getUint16(4, true)).toBe(handle);
    expect(ofType(19).view.getUint16(0x0c, true)).toBe(handle);
  });
});

it('is written where it belongs', () => {
  const memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(0x10_0000) }]);
  const smbios = buildSmbios(CONFIG);
  writeSmbios(memory, smbios);
  expect(memory.read(SMBIOS, smbios.bytes.length)).toEqual(smbios.bytes);
});

it('takes a serial number of any length that fits', () => {
  const serial = 's'.repeat(SMBIOS_LIMIT - 1024);
  expect(ofType(1, { serial }).string(7)).toBe(serial);
});

describe('a wrong configuration is refused', () => {
  it.each<[string, Partial<SmbiosConfig>, RegExp]>([
    ['a UUID that is none', { uuid: UUID.slice(1) }, /no UUID/],
    ['a control character', { serial: 'a\nb' }, /printable ASCII/],
    ['a NUL', { product: 'a\0' }, /printable ASCII/],
    ['a letter beyond ASCII', { family: 'ä' }, /printable ASCII/],
    ['no memory', { memory: [] }, /no memory/],
    ['memory that is no multiple of 1 KiB', { memory: [{ base: 0, size: 4100 }] }, /does not fit/],
    ['no processors', { vcpus: 0 }, /0 processors/],
    ['a frequency beyond 16 bits', { processor: { mhz: 65536 } }, /does not fit/],
    ['a string that leaves no room', { serial: 's'.repeat(SMBIOS_LIMIT) }, /do not fit 65536/],
  ])('%s', (_, config, message) => {
    expect(() => buildSmbios({ ...CONFIG, ...config })).toThrow(RangeError);
    expect(() => buildSmbios({ ...CONFIG, ...config })).toThrow(message);
  });
});
