/** Machine code of the few instructions that test guests are made of, as byte arrays. */

const u8 = (value: number): number => value & 0xff;
const word = (value: number): number[] => [u8(value), u8(value >>> 8)];
const dword = (value: number): number[] => [...word(value), ...word(value >>> 16)];

export const HLT = 0xf4;
export const CLI = 0xfa;
export const STI = 0xfb;
export const NOP = 0x90;
/** `jmp $` */
export const SPIN = [0xeb, 0xfe];

/** Real mode, 16-bit operands: `E` names are the 32-bit ones. */
export const real = {
  movAl: (value: number) => [0xb0, u8(value)],
  movAx: (value: number) => [0xb8, ...word(value)],
  movEax: (value: number) => [0x66, 0xb8, ...dword(value)],
  movCx: (value: number) => [0xb9, ...word(value)],
  movEcx: (value: number) => [0x66, 0xb9, ...dword(value)],
  movDx: (value: number) => [0xba, ...word(value)],
  movSi: (value: number) => [0xbe, ...word(value)],
  movDi: (value: number) => [0xbf, ...word(value)],
  /** ds = value, by way of ax */
  movDs: (value: number) => [...real.movAx(value), 0x8e, 0xd8],

  outDxAl: [0xee],
  outDxAx: [0xef],
  outDxEax: [0x66, 0xef],
  inAlDx: [0xec],
  inAxDx: [0xed],
  inEaxDx: [0x66, 0xed],
  outsb: [0xf3, 0x6e],
  outsw: [0xf3, 0x6f],
  outsd: [0xf3, 0x66, 0x6f],
  insb: [0xf3, 0x6c],
  insw: [0xf3, 0x6d],

  /** at ds:address */
  loadAl: (address: number) => [0xa0, ...word(address)],
  loadAx: (address: number) => [0xa1, ...word(address)],
  loadEax: (address: number) => [0x66, 0xa1, ...word(address)],
  storeAl: (address: number) => [0xa2, ...word(address)],
  storeAx: (address: number) => [0xa3, ...word(address)],
  storeEax: (address: number) => [0x66, 0xa3, ...word(address)],

  incAx: [0x40],
  incEax: [0x66, 0x40],
  decCx: [0x49],
  /** dec ecx; jnz to the start of `body` */
  loopEcx: (body: readonly number[]) => [...body, 0x66, 0x49, 0x75, u8(-(body.length + 4))],
  /** `body` for ever */
  forever: (body: readonly number[]) => [...body, 0xeb, u8(-(body.length + 2))],

  /** out of one value to a port */
  out8: (port: number, value: number) => [...real.movDx(port), ...real.movAl(value), ...real.outDxAl],
  out16: (port: number, value: number) => [...real.movDx(port), ...real.movAx(value), ...real.outDxAx],
  out32: (port: number, value: number) => [...real.movDx(port), ...real.movEax(value), ...real.outDxEax],
  /** in from a port, the result in al, ax, eax */
  in8: (port: number) => [...real.movDx(port), ...real.inAlDx],
  in16: (port: number) => [...real.movDx(port), ...real.inAxDx],
  in32: (port: number) => [...real.movDx(port), ...real.inEaxDx],
};
