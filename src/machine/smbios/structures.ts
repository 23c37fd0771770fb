/** The structures of the board, by type (DSP0134 3.3.0, chapter 7). */

import type { MemoryRange } from '../../boot/layout.ts';
import { uuidBytes } from '../uuid.ts';
import type { SmbiosConfig } from './config.ts';
import { uint, type Structure } from './structure.ts';

/** MM/DD/YYYY. Linux takes the year for the firmware's age and distrusts ACPI of the last century. */
const RELEASE_DATE = '01/01/2026';

const HANDLE = {
  firmware: 0x0000,
  system: 0x0100,
  chassis: 0x0300,
  processor: 0x0400,
  memoryArray: 0x1000,
  memoryDevice: 0x1100,
  memoryMap: 0x1300,
  boot: 0x2000,
  end: 0x7f00,
} as const;

/** "other" in the enumerations of most fields */
const OTHER = 1;
const NO_HANDLE = 0xffff;
const NOT_PROVIDED = 0xfffe;

const KIB = 1024;
const MIB = 1024 * KIB;

/** @throws RangeError where the configuration does not fit its fields */
export function structures(config: SmbiosConfig): Structure[] {
  const { memory } = config;
  if (memory.length === 0) throw new RangeError('SMBIOS: no memory');
  const total = memory.reduce((sum, { size }) => sum + size, 0);
  return [
    firmware(config),
    system(config),
    chassis(config),
    processor(config),
    memoryArray(total),
    memoryDevice(total),
    ...memory.map(mappedRange),
    bootInformation(),
    { type: 127, handle: HANDLE.end, fields: [] },
  ];
}

/** Type 0 (7.1) */
function firmware({ version = '' }: SmbiosConfig): Structure {
  const characteristicsNotSupported = 0x08;
  const virtualMachine = 0x10;
  const noVersion = 0xff;
  return {
    type: 0,
    handle: HANDLE.firmware,
    fields: [
      'tsvm',
      version,
      // segment 0xf000, where the structures are: 64 KiB to the end of the first MiB
      uint(0xf000, 2),
      RELEASE_DATE,
      // ROM size: (n + 1) times 64 KiB
      [0],
      uint(characteristicsNotSupported, 8),
      [0, virtualMachine],
      // release of the firmware and of the embedded controller
      [0, 0, noVersion, noVersion],
      uint(0, 2),
    ],
  };
}

/** Type 1 (7.2) */
function system(config: SmbiosConfig): Structure {
  const {
    manufacturer = 'tsvm',
    product = 'tsvm',
    version = '',
    serial = '',
    sku = '',
    family = '',
  } = config;
  const wokenByPowerSwitch = 6;
  return {
    type: 1,
    handle: HANDLE.system,
    fields: [
      manufacturer,
      product,
      version,
      serial,
      [...uuidBytes(config.uuid)],
      [wokenByPowerSwitch],
      sku,
      family,
    ],
  };
}

/** Type 3 (7.4) */
function chassis({ manufacturer = 'tsvm', assetTag = '' }: SmbiosConfig): Structure {
  const safe = 3;
  const noSecurity = 3;
  return {
    type: 3,
    handle: HANDLE.chassis,
    fields: [
      manufacturer,
      [OTHER],
      // version, serial number
      '',
      '',
      assetTag,
      // states at the last boot: chassis, power supply, thermal; security
      [safe, safe, safe, noSecurity],
      // OEM-defined; height and power cords are not specified; no contained elements
      uint(0, 4),
      [0, 0, 0, 0],
      // SKU
      '',
    ],
  };
}

/** Type 4 (7.5): all vCPUs are cores of one package, one thread a core, as CPUID has it. */
function processor({ vcpus, processor: cpu = {} }: SmbiosConfig): Structure {
  const { manufacturer = 'tsvm', version = '', mhz = 0 } = cpu;
  if (!(Number.isInteger(vcpus) && vcpus >= 1)) throw new RangeError(`SMBIOS: ${vcpus} processors`);
  const centralProcessor = 3;
  const populatedAndEnabled = 0x41;
  const is64Bit = 0x04;
  const isMultiCore = 0x08;
  const inOneByte = Math.min(vcpus, 0xff);
  return {
    type: 4,
    handle: HANDLE.processor,
    fields: [
      'CPU 0',
      [centralProcessor, OTHER],
      manufacturer,
      // the processor's signature: CPUID has it
      uint(0, 8),
      version,
      // voltage and external clock are unknown
      [0],
      uint(0, 2),
      uint(mhz, 2),
      uint(mhz, 2),
      [populatedAndEnabled, OTHER],
      // caches: described by CPUID
      ...[NO_HANDLE, NO_HANDLE, NO_HANDLE].map((handle) => uint(handle, 2)),
      // serial number, asset tag, part number
      '',
      '',
      '',
      // cores, cores enabled, threads
      [inOneByte, inOneByte, inOneByte],
      uint(vcpus > 1 ? is64Bit | isMultiCore : is64Bit, 2),
      // family again, then the counts in 16 bits
      uint(OTHER, 2),
      ...[vcpus, vcpus, vcpus].map((count) => uint(count, 2)),
    ],
  };
}

/** Type 16 (7.17) */
function memoryArray(total: number): Structure {
  const systemMemory = 3;
  const noCorrection = 3;
  const seeExtended = 0x8000_0000;
  const kib = Math.floor(total / KIB);
  return {
    type: 16,
    handle: HANDLE.memoryArray,
    fields: [
      [OTHER, systemMemory, noCorrection],
      uint(Math.min(kib, seeExtended), 4),
      uint(NOT_PROVIDED, 2),
      // devices in the array
      uint(1, 2),
      uint(kib < seeExtended ? 0 : total, 8),
    ],
  };
}

/** Type 17 (7.18): all memory is one module. Its size is in MiB, a rest is not told. */
function memoryDevice(total: number): Structure {
  const seeExtended = 0x7fff;
  const dimm = 9;
  const ram = 7;
  const dram = 3;
  const volatileOnly = 1 << 3;
  const unknownWidth = 0xffff;
  const mib = Math.floor(total / MIB);
  return {
    type: 17,
    handle: HANDLE.memoryDevice,
    fields: [
      uint(HANDLE.memoryArray, 2),
      uint(NOT_PROVIDED, 2),
      uint(unknownWidth, 2),
      uint(unknownWidth, 2),
      uint(Math.min(mib, seeExtended), 2),
      // form factor, device set
      [dimm, 0],
      'DIMM 0',
      // bank, then type and its detail: other
      '',
      [ram],
      uint(1 << OTHER, 2),
      // speed
      uint(0, 2),
      // manufacturer, serial number, asset tag, part number
      'tsvm',
      '',
      '',
      '',
      // rank
      [0],
      uint(mib < seeExtended ? 0 : mib, 4),
      // configured speed, voltages
      ...[0, 0, 0, 0].map((value) => uint(value, 2)),
      [dram],
      uint(volatileOnly, 2),
      // firmware version, then ids of the module's and its controller's makers
      '',
      ...[0, 0, 0, 0].map((value) => uint(value, 2)),
      // sizes: non-volatile, volatile, cache, logical
      uint(0, 8),
      uint(total, 8),
      uint(0, 8),
      uint(0, 8),
      // extended speeds
      uint(0, 4),
      uint(0, 4),
    ],
  };
}

/** Type 19 (7.20): addresses in KiB, of the last KiB where the range ends. */
function mappedRange({ base, size }: MemoryRange, index: number): Structure {
  const seeExtended = 0xffff_ffff;
  const [first, last] = [base / KIB, (base + size) / KIB - 1];
  const fits = last < seeExtended;
  return {
    type: 19,
    handle: HANDLE.memoryMap + index,
    fields: [
      uint(fits ? first : seeExtended, 4),
      uint(fits ? last : seeExtended, 4),
      uint(HANDLE.memoryArray, 2),
      // devices that form a row
      [1],
      uint(fits ? 0 : base, 8),
      uint(fits ? 0 : base + size - 1, 8),
    ],
  };
}

/** Type 32 (7.33): six reserved bytes, and that no error was detected. */
function bootInformation(): Structure {
  return { type: 32, handle: HANDLE.boot, fields: [new Uint8Array(6), [0]] };
}
