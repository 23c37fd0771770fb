/** Registers of the MC146818A (Motorola data sheet, "Registers") and of a PC's CMOS RAM around it. */

export const CMOS_SIZE = 128;

export const REG = {
  seconds: 0x00,
  secondsAlarm: 0x01,
  minutes: 0x02,
  minutesAlarm: 0x03,
  hours: 0x04,
  hoursAlarm: 0x05,
  weekday: 0x06,
  day: 0x07,
  month: 0x08,
  year: 0x09,
  a: 0x0a,
  b: 0x0b,
  c: 0x0c,
  d: 0x0d,
  /** where ACPI's FADT says that the century is */
  century: 0x32,
} as const;

/** The registers that hold the time. */
export const TIME_REGISTERS: readonly number[] = [
  REG.seconds,
  REG.minutes,
  REG.hours,
  REG.weekday,
  REG.day,
  REG.month,
  REG.year,
  REG.century,
];

export const A = {
  updateInProgress: 0x80,
  divider: 0x70,
  /** divider of a 32.768 kHz crystal, as all PCs have */
  divider32kHz: 0x20,
  /** both bits set: the divider chain is held in reset */
  dividerReset: 0x60,
  rate: 0x0f,
} as const;

export const B = {
  set: 0x80,
  periodic: 0x40,
  alarm: 0x20,
  update: 0x10,
  squareWave: 0x08,
  binary: 0x04,
  hours24: 0x02,
} as const;

/** Flags of register C lie where their enable bits lie in B. */
export const C = { interrupt: 0x80, periodic: 0x40, alarm: 0x20, update: 0x10 } as const;
export const INTERRUPTS = C.periodic | C.alarm | C.update;

/** Register D: RAM and time are valid, the battery is good. */
export const D_VALID = 0x80;

/** Period of the periodic interrupt in milliseconds for register A's rate bits; 0 where there is none. */
export function periodOf(a: number): number {
  const rate = a & A.rate;
  if (rate === 0) return 0;
  // Rates 1 and 2 repeat 8 and 9 with a 32.768 kHz time base (data sheet, table 5).
  return 1000 / (32768 >> ((rate <= 2 ? rate + 7 : rate) - 1));
}
