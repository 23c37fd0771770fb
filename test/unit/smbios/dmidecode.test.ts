import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ramRanges } from '../../../src/boot/layout.ts';
import { buildSmbios, type SmbiosConfig } from '../../../src/machine/smbios/tables.ts';

function installed(): boolean {
  try {
    execFileSync('dmidecode', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const dmidecodeMissing = !installed();
if (dmidecodeMissing) console.warn('skipped: dmidecode is not installed (Debian package dmidecode)');

/** What dmidecode makes of the tables. A dump has the entry point at 0, and addresses count from there. */
function dmidecode(config: SmbiosConfig): string {
  const { base, bytes } = buildSmbios(config);
  const dump = bytes.slice();
  const view = new DataView(dump.buffer);
  const before = dump.subarray(16, 24).reduce((sum, byte) => sum + byte, 0);
  view.setBigUint64(16, view.getBigUint64(16, true) - BigInt(base), true);
  const after = dump.subarray(16, 24).reduce((sum, byte) => sum + byte, 0);
  dump[5] = dump[5]! + before - after;
  const directory = mkdtempSync(join(tmpdir(), 'tsvm-dmi-'));
  try {
    writeFileSync(join(directory, 'dump'), dump);
    return execFileSync('dmidecode', ['--from-dump', 'dump'], { cwd: directory, encoding: 'utf8' });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** A section's lines. */
function section(text: string, title: string): string {
  const found = text.split('\n\n').find((part) => part.split('\n')[1] === title);
  expect(found, title).toBeDefined();
  return found!;
}

describe.skipIf(dmidecodeMissing)('SMBIOS as dmidecode reads it (needs dmidecode)', () => {
  const text = dmidecodeMissing
    ? ''
    : dmidecode({
        uuid: '12345678-9abc-def0-1122-334455667788',
        vcpus: 4,
        memory: ramRanges(6 * 2 ** 30),
        serial: 'ds=nocloud;s=http://10.0.2.2/',
        version: '1.2.3',
        assetTag: 'asset',
        processor: { version: 'EPYC', mhz: 2450 },
      });

  it('is found, in version 3.3', () => {
    expect(text).toContain('SMBIOS 3.3.0 present.');
  });

  it.each([
    'Invalid entry length',
    'Wrong DMI structures',
    'BAD INDEX',
    'OUT OF SPEC',
    'TRUNCATED',
    'broken',
  ])('without the complaint "%s"', (complaint) => {
    expect(text.toLowerCase()).not.toContain(complaint.toLowerCase());
  });

  it.each([
    [
      'BIOS Information',
      ['Vendor: tsvm', 'Version: 1.2.3', 'Release Date: 01/01/2026', 'System is a virtual machine'],
    ],
    [
      'System Information',
      [
        'Manufacturer: tsvm',
        'Product Name: tsvm',
        'Version: 1.2.3',
        'Serial Number: ds=nocloud;s=http://10.0.2.2/',
        'UUID: 12345678-9abc-def0-1122-334455667788',
        'Wake-up Type: Power Switch',
      ],
    ],
    ['Chassis Information', ['Type: Other', 'Lock: Not Present', 'Asset Tag: asset', 'Boot-up State: Safe']],
    [
      'Processor Information',
      [
        'Type: Central Processor',
        'Version: EPYC',
        'Max Speed: 2450 MHz',
        'Status: Populated, Enabled',
        'L1 Cache Handle: Not Provided',
        'Core Count: 4',
        'Core Enabled: 4',
        'Thread Count: 4',
        '64-bit capable',
        'Multi-Core',
      ],
    ],
    ['Physical Memory Array', ['Use: System Memory', 'Maximum Capacity: 6 GB', 'Number Of Devices: 1']],
    [
      'Memory Device',
      ['Size: 6 GB', 'Form Factor: DIMM', 'Type: RAM', 'Type Detail: Other', 'Volatile Size: 6 GB'],
    ],
    [
      'Memory Array Mapped Address',
      ['Ending Address: 0x000BFFFFFFF', 'Range Size: 3 GB', 'Partition Width: 1'],
    ],
    ['System Boot Information', ['Status: No errors detected']],
  ])('with %s', (title, lines) => {
    const found = section(text, title)
      .split('\n')
      .map((line) => line.trim());
    expect(found).toEqual(expect.arrayContaining(lines));
  });
});
