import type { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';

/** Looks at the status port after which a driver has waited for half a second. */
const PATIENCE = 20;

/** Does to the controller and the keyboard what Linux's i8042, libps2 and atkbd drivers do. */
export class LinuxI8042 {
  readonly #bus: FakeBus;
  readonly #irq: FakeIrq;
  #edgesSeen = 0;
  #ctr = 0;
  readonly warnings: string[] = [];
  /** what the interrupt handler has read */
  readonly received: number[] = [];
  timeouts = 0;

  constructor(bus: FakeBus, irq: FakeIrq) {
    this.#bus = bus;
    this.#irq = irq;
  }

  status(): number {
    return this.#bus.read('pio', 0x64, 1);
  }

  data(): number {
    return this.#bus.read('pio', 0x60, 1);
  }

  /** i8042_command(): undefined where it fails */
  command(command: number, parameters: number[], answers: number): number[] | undefined {
    if (this.status() & 0x02) return undefined;
    this.#bus.write('pio', 0x64, 1, command);
    for (const parameter of parameters) {
      if (this.status() & 0x02) return undefined;
      this.#bus.write('pio', 0x60, 1, parameter);
    }
    const got: number[] = [];
    while (got.length < answers) {
      if (!this.#waitRead()) return undefined;
      if (command === 0xd3 && !(this.status() & 0x20)) return undefined;
      got.push(this.data());
    }
    return got;
  }

  #waitRead(): boolean {
    for (let i = 0; i < PATIENCE; i++) if (this.status() & 0x01) return true;
    this.timeouts++;
    return false;
  }

  #flush(): void {
    for (let i = 0; this.status() & 0x01; i++, this.data()) {
      if (i === 16) {
        this.warnings.push('no controller found');
        return;
      }
    }
  }

  /** i8042_probe() up to the registered keyboard port; whether it takes an auxiliary port to be there */
  probe(): { aux: boolean } {
    this.#flush();
    const first = this.command(0x20, [], 1)?.[0];
    const second = this.command(0x20, [], 1)?.[0];
    if (first === undefined || first !== second) this.warnings.push("can't read CTR");
    this.#ctr = (first ?? 0) | 0x10;
    this.#ctr &= ~0x01;
    if (!(this.status() & 0x10)) this.warnings.push('keylock active');
    if (!(this.#ctr & 0x40)) this.warnings.push('not translating');
    if (!this.command(0x60, [this.#ctr], 0)) this.warnings.push("can't write CTR");
    this.#flush();
    const aux = this.#checkAux();
    this.#ctr = (this.#ctr & ~0x10) | 0x01;
    if (!this.command(0x60, [this.#ctr], 0)) this.warnings.push('failed to enable KBD port');
    return { aux };
  }

  #checkAux(): boolean {
    this.#flush();
    const loop = this.command(0xd3, [0x5a], 1)?.[0];
    if (loop === 0x5a) return true;
    const test = this.command(0xa9, [], 1)?.[0];
    return test === 0 || test === 0xfa || test === 0xff;
  }

  /** i8042_interrupt(), once for each edge; one byte each time */
  serve(): void {
    for (;;) {
      this.#bus.drain();
      if (this.#irq.edges === this.#edgesSeen) return;
      this.#edgesSeen++;
      if (this.status() & 0x01) this.received.push(this.data());
    }
  }

  /** ps2_command(): sends a byte and its parameters, each of which must be acknowledged, and takes the answer */
  ps2(command: number, parameters: number[], answers: number): number[] | undefined {
    for (const byte of [command, ...parameters]) {
      this.received.length = 0;
      this.#bus.write('pio', 0x60, 1, byte);
      this.serve();
      if (this.received.shift() !== 0xfa) return undefined;
    }
    return this.received.length === answers ? this.received.splice(0) : undefined;
  }

  /** atkbd_connect(): the keyboard's id, undefined where it is not taken for a keyboard */
  connectKeyboard(): number | undefined {
    const id = this.ps2(0xf2, [], 2);
    if (id?.[0] !== 0xab) return undefined;
    if (!this.ps2(0xf5, [], 0)) this.warnings.push('failed to deactivate keyboard');
    if (!this.ps2(0xed, [0], 0)) this.warnings.push('failed to set leds');
    if (!this.ps2(0xf3, [0], 0)) this.warnings.push('failed to set repeat rate');
    if (!this.ps2(0xf4, [], 0)) this.warnings.push('failed to enable keyboard');
    return id[0] * 256 + id[1]!;
  }
}
