import type { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';

export const COM1 = 0x3f8;

/** Rounds after which Linux's handler gives up with "too much work for irq". */
const PASS_LIMIT = 512;

/** Does to a UART what Linux's 8250 driver does, in its order; what it reads is told in plain values. */
export class Linux8250 {
  readonly #bus: FakeBus;
  readonly #irq: FakeIrq;
  /** called between any two accesses, where an event loop might run */
  readonly #between: () => Promise<void>;
  #edgesSeen = 0;
  #ier = 0;
  readonly toSend: number[] = [];
  readonly received: number[] = [];
  longestInterrupt = 0;

  constructor(bus: FakeBus, irq: FakeIrq, between: () => Promise<void> = () => Promise.resolve()) {
    this.#bus = bus;
    this.#irq = irq;
    this.#between = between;
  }

  async in(register: number): Promise<number> {
    await this.#between();
    return this.#bus.read('pio', COM1 + register, 1);
  }

  async out(register: number, value: number): Promise<void> {
    await this.#between();
    this.#bus.write('pio', COM1 + register, 1, value);
  }

  /** autoconfig(): what the driver takes the chip for */
  async autoconfig(): Promise<'none' | '8250' | '16550' | '16550A' | 'other'> {
    const ier = await this.in(1);
    await this.out(1, 0);
    const cleared = (await this.in(1)) & 0x0f;
    await this.out(1, 0x0f);
    const set = (await this.in(1)) & 0x0f;
    await this.out(1, ier);
    if (cleared !== 0 || set !== 0x0f) return 'none';
    const mcr = await this.in(4);
    const lcr = await this.in(3);
    await this.out(4, 0x10 | 0x0a);
    const loop = (await this.in(6)) & 0xf0;
    await this.out(4, mcr);
    if (loop !== 0x90) return 'none';
    await this.out(3, 0xbf);
    await this.out(2, 0);
    await this.out(3, 0);
    await this.out(2, 1);
    const kind = ((await this.in(2)) >> 6) & 3;
    const variant = kind === 3 && (await this.#is16550aVariant());
    await this.out(3, lcr);
    await this.out(4, mcr);
    await this.#clearFifos();
    await this.in(0);
    await this.out(1, 0);
    if (variant) return 'other';
    return (['8250', 'other', '16550', '16550A'] as const)[kind] ?? 'other';
  }

  /** autoconfig_16550a(): the tests for chips that look like one */
  async #is16550aVariant(): Promise<boolean> {
    await this.out(3, 0x80);
    if ((await this.in(2)) === 0) return true;
    await this.out(3, 0xbf);
    if ((await this.in(2)) === 0) return true;
    await this.out(3, 0);
    const mcr = await this.in(4);
    await this.out(3, 0xe0);
    const excr = await this.in(2);
    if (((excr ^ mcr) & 0x10) === 0) {
      await this.out(3, 0);
      await this.out(4, mcr ^ 0x10);
      await this.out(3, 0xe0);
      const second = await this.in(2);
      await this.out(3, 0);
      await this.out(4, mcr);
      if ((second ^ mcr) & 0x10) return true;
    }
    await this.out(3, 0);
    await this.out(2, 0x21);
    if ((await this.in(2)) & 0x20) return true;
    await this.out(2, 1);
    const ier = await this.in(1);
    await this.out(1, ier | 0x40);
    const uue = (await this.in(1)) & 0x40;
    await this.out(1, ier);
    return uue !== 0;
  }

  /** size_fifo(): how many characters the receiver FIFO holds, by loopback */
  async sizeFifo(): Promise<number> {
    await this.out(3, 0);
    await this.out(2, 0x07);
    await this.out(4, 0x10);
    await this.out(3, 0x80);
    await this.out(0, 1);
    await this.out(1, 0);
    await this.out(3, 0x03);
    for (let i = 0; i < 256; i++) await this.out(0, i);
    this.#bus.drain(); // mdelay(20)
    let count = 0;
    for (; (await this.in(5)) & 1 && count < 256; count++) await this.in(0);
    await this.out(2, 0);
    await this.out(4, 0);
    return count;
  }

  /** serial8250_do_startup() and set_termios(): true where the driver found one of the bugs it works around */
  async startup(): Promise<{ bugThre: boolean; bugTxen: boolean }> {
    await this.#clearFifos();
    for (const register of [5, 0, 2, 6]) await this.in(register);
    if ((await this.in(5)) === 0xff) throw new Error('LSR safety check engaged!');
    while (!((await this.in(5)) & 0x20));
    await this.out(1, 0x02);
    await this.in(1);
    const first = await this.in(2);
    await this.out(1, 0);
    await this.out(1, 0x02);
    await this.in(1);
    const second = await this.in(2);
    await this.out(1, 0);
    const bugThre = (first & 1) === 0 && (second & 1) === 1;
    await this.out(3, 0x03);
    await this.out(4, 0x08);
    await this.out(1, 0x02);
    const lsr = await this.in(5);
    const iir = await this.in(2);
    await this.out(1, 0);
    const bugTxen = (lsr & 0x40) !== 0 && (iir & 1) === 1;
    for (const register of [5, 0, 2, 6]) await this.in(register);
    this.#ier = 0x05;
    await this.out(1, this.#ier);
    await this.out(4, 0x0b);
    await this.out(3, 0x83);
    await this.out(0, 1);
    await this.out(1, 0);
    await this.out(3, 0x03);
    await this.out(2, 0x01);
    await this.out(2, 0x81);
    return { bugThre, bugTxen };
  }

  async #clearFifos(): Promise<void> {
    await this.out(2, 0x01);
    await this.out(2, 0x07);
    await this.out(2, 0);
  }

  async startTx(): Promise<void> {
    if (this.#ier & 0x02) return;
    this.#ier |= 0x02;
    await this.out(1, this.#ier);
  }

  /** Takes an interrupt where an edge has come; whether it did. */
  async serve(): Promise<boolean> {
    if (this.#irq.edges === this.#edgesSeen) return false;
    this.#edgesSeen = this.#irq.edges;
    for (let pass = 1; ; pass++) {
      if (pass > PASS_LIMIT) throw new Error('too much work for irq');
      const iir = await this.in(2);
      if (iir & 1) return true;
      this.longestInterrupt = Math.max(this.longestInterrupt, pass);
      await this.#handle();
    }
  }

  async #handle(): Promise<void> {
    let lsr = await this.in(5);
    for (let left = 256; lsr & 0x01 && left > 0; left--) {
      this.received.push(await this.in(0));
      lsr = await this.in(5);
    }
    await this.in(6);
    if (!(lsr & 0x20) || !(this.#ier & 0x02)) return;
    for (const value of this.toSend.splice(0, 16)) await this.out(0, value);
    if (this.toSend.length > 0) return;
    this.#ier &= ~0x02;
    await this.out(1, this.#ier);
  }

  /** serial8250_console_write() */
  async consoleWrite(text: string): Promise<void> {
    const ier = await this.in(1);
    await this.out(1, 0);
    for (const char of text) {
      while (!((await this.in(5)) & 0x20));
      await this.out(0, char.charCodeAt(0));
    }
    while (((await this.in(5)) & 0x60) !== 0x60);
    await this.out(1, ier);
  }
}
