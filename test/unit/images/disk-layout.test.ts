import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { diskLayout } from '../../../images/debian/disk-layout.ts';

const MIB = 1024 ** 2;
const SIZE = 8 * MIB;
const IDS = {
  disk: 'c53ef413-cf69-8a7e-ac41-679864774f76',
  partition: '25a36528-d708-899e-a3ca-da7309470c23',
};
const ENV = { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };
const hasSfdisk = spawnSync('sfdisk', ['--version'], { env: ENV }).status === 0;

/** UEFI 2.10, appendix A: the first three fields of a GUID are little-endian. */
function guid(disk: Buffer, at: number): string {
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
  const swapped = [
    [at, at + 4],
    [at + 4, at + 6],
    [at + 6, at + 8],
  ].map(([from, to]) => hex(Uint8Array.from(disk.subarray(from, to)).reverse()));
  return [...swapped, hex(disk.subarray(at + 8, at + 10)), hex(disk.subarray(at + 10, at + 16))].join('-');
}

/** Checks a header and its entries (UEFI 2.10, section 5.3.2). @returns where its first entry is */
function checkHeader(disk: Buffer, lba: number, otherLba: number): number {
  const header = Buffer.from(disk.subarray(lba * 512, lba * 512 + 92));
  expect(header.toString('latin1', 0, 8)).toBe('EFI PART');
  const checksum = header.readUInt32LE(16);
  header.writeUInt32LE(0, 16);
  expect(crc32(header)).toBe(checksum);
  expect(Number(header.readBigUInt64LE(24))).toBe(lba);
  expect(Number(header.readBigUInt64LE(32))).toBe(otherLba);
  expect(guid(header, 56)).toBe(IDS.disk);
  const entries = Number(header.readBigUInt64LE(72)) * 512;
  const length = header.readUInt32LE(80) * header.readUInt32LE(84);
  expect(crc32(disk.subarray(entries, entries + length))).toBe(header.readUInt32LE(88));
  return entries;
}

describe('diskLayout', () => {
  it.runIf(hasSfdisk)('is a script by which sfdisk writes both tables with the root partition', () => {
    const dir = mkdtempSync(join(tmpdir(), 'tsvm-gpt-'));
    try {
      const file = join(dir, 'disk');
      writeFileSync(file, '');
      truncateSync(file, SIZE);
      const { script, rootOffset, rootSize } = diskLayout(SIZE, IDS);
      execFileSync('sfdisk', ['--quiet', file], { input: script, env: ENV });
      const disk = readFileSync(file);
      const last = SIZE / 512 - 1;
      expect(disk.readUInt8(446 + 4)).toBe(0xee); // the protective MBR's partition
      for (const entry of [checkHeader(disk, 1, last), checkHeader(disk, last, 1)]) {
        expect(guid(disk, entry)).toBe('4f68bce3-e8cd-4db1-96e7-fbcaf984b709');
        expect(guid(disk, entry + 16)).toBe(IDS.partition);
        expect(Number(disk.readBigUInt64LE(entry + 32)) * 512).toBe(rootOffset);
        expect((Number(disk.readBigUInt64LE(entry + 40)) + 1) * 512).toBe(rootOffset + rootSize);
      }
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('leaves the first and the last MiB to the tables', () => {
    const { rootOffset, rootSize } = diskLayout(4096 * MIB, IDS);
    expect(rootOffset).toBe(MIB);
    expect(rootSize).toBe(4094 * MIB);
  });
});
