import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildAcpi } from '../../../src/machine/acpi/tables.ts';
import { iaslMissing } from './iasl.ts';
import { Parsed } from './parse.ts';

const HOST_BRIDGE = '5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66';
const QUERY = 1;

/** acpiexec runs AML with the interpreter that Linux has; it comes in the same package as iasl. */
describe.skipIf(iaslMissing)('_OSC of the host bridge, run by ACPICA (needs acpiexec)', () => {
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'tsvm-osc-'));
    writeFileSync(join(directory, 'dsdt.aml'), new Parsed(buildAcpi({ apicIds: [0] })).table('DSDT').bytes);
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  const dword = (value: number): string =>
    [0, 8, 16, 24].map((shift) => ((value >>> shift) & 0xff).toString(16).padStart(2, '0')).join(' ');

  /** The three dwords that it returns for those it is given. */
  function osc(uuid: string, revision: number, capabilities: [number, number, number]): number[] {
    const buffer = capabilities.map(dword).join(' ');
    const command = `evaluate \\_SB.PCI0._OSC (${uuid}) ${revision} 3 (${buffer})`;
    const output = execFileSync('acpiexec', ['-b', `${command},quit`, 'dsdt.aml'], {
      cwd: directory,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const hex = /\[Buffer\] Length 0C =\s+0000: ((?:[0-9A-F]{2} ){12})/.exec(output)?.[1];
    expect(hex, output).toBeDefined();
    const view = new DataView(
      Uint8Array.from(hex!.trim().split(' '), (byte) => Number.parseInt(byte, 16)).buffer,
    );
    return [0, 4, 8].map((at) => view.getUint32(at, true));
  }

  it('masks hot-plug and says so', () => {
    expect(osc(HOST_BRIDGE, 1, [QUERY, 0x1f, 0x3f])).toEqual([QUERY | 0x10, 0x1f, 0x3c]);
  });

  it('grants the rest without complaint', () => {
    expect(osc(HOST_BRIDGE, 1, [0, 0x1f, 0x3c])).toEqual([0, 0x1f, 0x3c]);
  });

  it('knows revision 1 only', () => {
    expect(osc(HOST_BRIDGE, 2, [0, 0x1f, 0x10])).toEqual([0x08, 0x1f, 0x10]);
  });

  it('refuses another UUID and leaves its capabilities alone', () => {
    expect(osc(HOST_BRIDGE.replace('5B', '5C'), 1, [0, 0x1f, 0x3f])).toEqual([0x04, 0x1f, 0x3f]);
  });
});
