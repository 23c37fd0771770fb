import type { FakeBus } from '../../../support/fake-bus.ts';

export type RtcTime = {
  year: number;
  month: number;
  day: number;
  hours: number;
  minutes: number;
  seconds: number;
};

const fromBcd = (value: number): number => (value >> 4) * 10 + (value & 15);
const toBcd = (value: number): number => Math.floor(value / 10) * 16 + (value % 10);

/** Does to the clock what Linux's mc146818 library does. `step` is called before each access and lets time pass. */
export class LinuxRtc {
  readonly #bus: FakeBus;
  readonly #step: () => void;

  constructor(bus: FakeBus, step: () => void = () => undefined) {
    this.#bus = bus;
    this.#step = step;
  }

  /** CMOS_READ() */
  read(register: number): number {
    this.#step();
    this.#bus.write('pio', 0x70, 1, register);
    this.#step();
    return this.#bus.read('pio', 0x71, 1);
  }

  /** CMOS_WRITE() */
  write(register: number, value: number): void {
    this.#step();
    this.#bus.write('pio', 0x70, 1, register);
    this.#bus.write('pio', 0x71, 1, value);
  }

  #fields(): RtcTime {
    const [seconds, minutes, hours, day, month, year, century] = [0, 2, 4, 7, 8, 9, 0x32].map((register) =>
      fromBcd(this.read(register)),
    );
    return {
      year: century! * 100 + year!,
      month: month!,
      day: day!,
      hours: hours!,
      minutes: minutes!,
      seconds: seconds!,
    };
  }

  /** mach_get_cmos_time() of old kernels: relies on 244 microseconds after UIP alone. */
  oldReadTime(): RtcTime {
    while (this.read(0x0a) & 0x80);
    return this.#fields();
  }

  /** mc146818_get_time() with mc146818_avoid_UIP(); undefined after more attempts than a second has milliseconds */
  readTime(): RtcTime | undefined {
    for (let attempt = 0; attempt < 1000; attempt++) {
      const seconds = this.read(0);
      if (this.read(0x0a) & 0x80) continue;
      if (seconds !== this.read(0)) continue;
      const time = this.#fields();
      if (this.read(0x0a) & 0x80) continue;
      if (seconds !== this.read(0)) continue;
      return time;
    }
    return undefined;
  }

  /** mc146818_set_time() */
  setTime(time: RtcTime): void {
    const control = this.read(0x0b);
    this.write(0x0b, control | 0x80);
    const frequency = this.read(0x0a);
    this.write(0x0a, frequency | 0x70);
    this.write(9, toBcd(time.year % 100));
    this.write(8, toBcd(time.month));
    this.write(7, toBcd(time.day));
    this.write(4, toBcd(time.hours));
    this.write(2, toBcd(time.minutes));
    this.write(0, toBcd(time.seconds));
    this.write(0x32, toBcd(Math.floor(time.year / 100)));
    this.write(0x0b, control);
    this.write(0x0a, frequency);
  }
}

export function toDate(time: RtcTime): number {
  return Date.UTC(time.year, time.month - 1, time.day, time.hours, time.minutes, time.seconds);
}
