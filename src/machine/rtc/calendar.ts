/** Between milliseconds since 1970 (UTC) and the bytes of the time registers. */

import { B, REG } from './registers.ts';

type Bytes = Uint8Array;

const encode = (value: number, control: number): number =>
  control & B.binary ? value & 0xff : (Math.floor(value / 10) % 10) * 16 + (value % 10);

const decode = (byte: number, control: number): number =>
  control & B.binary ? byte : (byte >>> 4) * 10 + (byte & 0x0f);

export function encodeHour(hour: number, control: number): number {
  if (control & B.hours24) return encode(hour, control);
  return encode(hour % 12 === 0 ? 12 : hour % 12, control) | (hour >= 12 ? 0x80 : 0);
}

function decodeHour(byte: number, control: number): number {
  if (control & B.hours24) return decode(byte, control);
  return (decode(byte & 0x7f, control) % 12) + (byte & 0x80 ? 12 : 0);
}

/** Writes the time into its registers in the format that register B selects. */
export function encodeTime(time: number, control: number, cmos: Bytes): void {
  const date = new Date(time);
  const year = Math.max(0, date.getUTCFullYear());
  cmos[REG.seconds] = encode(date.getUTCSeconds(), control);
  cmos[REG.minutes] = encode(date.getUTCMinutes(), control);
  cmos[REG.hours] = encodeHour(date.getUTCHours(), control);
  cmos[REG.weekday] = encode(date.getUTCDay() + 1, control);
  cmos[REG.day] = encode(date.getUTCDate(), control);
  cmos[REG.month] = encode(date.getUTCMonth() + 1, control);
  cmos[REG.year] = encode(year % 100, control);
  cmos[REG.century] = encode(Math.floor(year / 100), control);
}

/**
 * The time in the registers, in whole seconds. Any bytes are some time: fields beyond their range carry over, and
 * the weekday follows from the date.
 */
export function decodeTime(cmos: Bytes, control: number): number {
  const field = (register: number): number => decode(cmos[register]!, control);
  const date = new Date(0);
  // Not Date.UTC, which moves the years 0 to 99 into the twentieth century.
  date.setUTCFullYear(field(REG.century) * 100 + field(REG.year), field(REG.month) - 1, field(REG.day));
  date.setUTCHours(decodeHour(cmos[REG.hours]!, control), field(REG.minutes), field(REG.seconds), 0);
  return date.getTime();
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** An alarm byte with both top bits set matches anything (data sheet, "Time, Calendar, and Alarm Locations"). */
const matches = (alarm: number, value: number): boolean => (alarm & 0xc0) === 0xc0 || alarm === value;

/** The first full second after `after` that the alarm registers match; undefined where none ever does. */
export function nextAlarm(after: number, cmos: Bytes, control: number): number | undefined {
  const today = Math.floor(after / DAY) * DAY;
  for (const day of [today, today + DAY]) {
    for (let hour = 0; hour < 24; hour++) {
      const atHour = day + hour * HOUR;
      if (atHour + HOUR <= after || !matches(cmos[REG.hoursAlarm]!, encodeHour(hour, control))) continue;
      for (let minute = 0; minute < 60; minute++) {
        const atMinute = atHour + minute * MINUTE;
        if (atMinute + MINUTE <= after || !matches(cmos[REG.minutesAlarm]!, encode(minute, control)))
          continue;
        for (let second = 0; second < 60; second++) {
          const at = atMinute + second * SECOND;
          if (at > after && matches(cmos[REG.secondsAlarm]!, encode(second, control))) return at;
        }
      }
    }
  }
  return undefined;
}
