import { HIGH_RAM, KIB, MIB, ramRanges } from '../../boot/layout.ts';

/** Writes the PC's memory size bytes, of which firmware and old kernels take how much RAM there is. */
export function writeMemorySize(cmos: Uint8Array, memory: number): void {
  const [low, high] = ramRanges(memory);
  const below4g = low?.size ?? 0;
  const word = (at: number, value: number): void => {
    const capped = Math.min(Math.max(Math.floor(value), 0), 0xffff);
    cmos[at] = capped & 0xff;
    cmos[at + 1] = capped >>> 8;
  };
  // Conventional memory and memory above 1 MiB in KiB, the latter twice: as set up and as found.
  word(0x15, Math.min(below4g / KIB, 640));
  word(0x17, (below4g - HIGH_RAM) / KIB);
  word(0x30, (below4g - HIGH_RAM) / KIB);
  // Above 16 MiB and above 4 GiB in units of 64 KiB; the latter takes three bytes.
  word(0x34, (below4g - 16 * MIB) / (64 * KIB));
  const above4g = Math.floor((high?.size ?? 0) / (64 * KIB));
  word(0x5b, above4g & 0xffff);
  cmos[0x5d] = above4g >>> 16;
}

/** The PC's checksum of the setup bytes 0x10 to 0x2d, high byte first. */
export function writeChecksum(cmos: Uint8Array): void {
  let sum = 0;
  for (let i = 0x10; i <= 0x2d; i++) sum += cmos[i]!;
  cmos[0x2e] = (sum >>> 8) & 0xff;
  cmos[0x2f] = sum & 0xff;
}
