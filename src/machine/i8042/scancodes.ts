/**
 * Scan codes of the PC keyboard: set 2, which the keyboard sends, and set 1, into which the controller translates
 * it (IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller").
 */

/** Set 2 codes in the order of the set 1 codes that they become: 0x01 to 0x7f, sixteen to a row. */
const SET2_IN_ORDER_OF_SET1 = `
   76 16 1e 26 25 2e 36 3d 3e 46 45 4e 55 66 0d
15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5a 14 1c 1b
23 2b 34 33 3b 42 4b 4c 52 0e 12 5d 1a 22 21 2a
32 31 3a 41 49 4a 59 7c 11 29 58 05 06 04 0c 03
0b 83 0a 01 09 77 7e 6c 75 7d 7b 6b 73 74 79 69
72 7a 70 71 7f 60 61 78 07 0f 17 1f 27 2f 37 3f
47 4f 56 5e 08 10 18 20 28 30 38 40 48 50 57 6f
13 19 39 51 53 5c 5f 62 63 64 65 67 68 6a 6d 6e`;

const SET1 = new Uint8Array(256).map((_, code) => code);
SET2_IN_ORDER_OF_SET1.trim()
  .split(/\s+/)
  .forEach((code, i) => (SET1[parseInt(code, 16)] = i + 1));
// Overrun; a second F7; Alt+SysRq.
SET1[0x00] = 0xff;
SET1[0x02] = 0x41;
SET1[0x84] = 0x54;

/** First byte of a break code in set 2; the code itself follows. */
export const BREAK = 0xf0;

/** A set 2 code, or a reply of the keyboard, in set 1. What is no code stays as it is. */
export const toSet1 = (code: number): number => SET1[code & 0xff]!;

/** Ctrl-Alt-Del pressed and released, in set 2. */
export const CTRL_ALT_DEL: readonly number[] = [
  0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14,
];
