/** What both ends of a console's port have said, and what each must have heard of it. */
import type { ConsolePortOptions } from '../../src/devices/console/device.ts';
import type { GuestEnd, PortBackend } from '../../src/devices/console/port.ts';
import type { Random } from './random.ts';

const nothing = new Uint8Array(0);
const INPUT_LIMIT = 2000;

export class ConsolePortModel implements PortBackend {
  readonly name: string | undefined;
  /** there is such a port; else it is the place of a console that the device does not have */
  readonly exists: boolean;
  guest: GuestEnd | undefined;
  hostOpen: boolean;
  present: boolean;
  guestOpen = false;
  /** the driver has set the port up, and is told all from then on */
  introduced = false;
  /** what the driver was last told of the host's end */
  told = false;
  /** the backend has said that it takes no more */
  throttled = false;
  readonly #random: Random;
  /** what the guest has sent and the host must get, and what has come of it since it was last looked at */
  #output: Uint8Array = nothing;
  #arrived: Uint8Array[] = [];
  /** what the host has sent and the guest must get */
  #input: Uint8Array = nothing;

  constructor(random: Random, name: string | undefined, exists = true) {
    this.#random = random;
    this.name = name;
    this.exists = this.present = exists;
    this.hostOpen = exists && name === undefined;
  }

  get options(): ConsolePortOptions {
    return this.name === undefined ? { console: true, backend: this } : { name: this.name, backend: this };
  }

  get #accepts(): boolean {
    return this.hostOpen && this.present;
  }

  connect(guest: GuestEnd | undefined): void {
    this.guest = guest;
  }

  output(bytes: Uint8Array): boolean {
    if (this.throttled) throw new Error('output to a backend that takes none');
    this.#arrived.push(bytes);
    // A console takes everything: Linux spins until it has.
    this.throttled = this.name !== undefined && this.#random.oneIn(3);
    return !this.throttled;
  }

  /** The guest has made output available. */
  sent(bytes: Uint8Array): void {
    if (this.#accepts) this.#output = Buffer.concat([this.#output, bytes]);
  }

  /** The driver has set the port up, or failed to; `isTold` where the device answers that. */
  setUp(isTold: boolean): void {
    if (this.present) this.introduced = isTold;
  }

  /** A program of the guest has opened or closed the port. */
  programOpened(open: boolean): void {
    if (this.present) this.guestOpen = open;
  }

  /** The device was reset and is up again. */
  restart(guestOpen: boolean): void {
    this.guestOpen = guestOpen;
    this.introduced = this.told = false;
    this.#output = nothing;
  }

  /** What was sent and heard in a case that makes no sense any more does not count. */
  forget(): void {
    this.#input = nothing;
    this.guest?.withdrawInput();
    while (this.throttled) this.resume();
    this.#arrived = [];
  }

  /** One thing that the host does at its end. */
  act(): void {
    const { guest } = this;
    if (guest === undefined) return;
    const random = this.#random;
    const what = random.below(6);
    if (what === 0 && this.name !== undefined) this.setHostOpen(!this.hostOpen);
    else if (what === 1) this.resume();
    else if (what === 2 && random.oneIn(4)) {
      this.#input = nothing;
      guest.withdrawInput();
    } else if (this.#input.length < INPUT_LIMIT) {
      const bytes = random.fill(new Uint8Array(random.between(1, 300)));
      this.#input = Buffer.concat([this.#input, bytes]);
      void guest.input(bytes).catch(() => undefined);
    }
  }

  resume(): void {
    this.throttled = false;
    this.guest?.resumeOutput();
  }

  setHostOpen(open: boolean): void {
    if (open !== this.hostOpen && !open) this.#drop();
    this.hostOpen = open;
    this.guest?.setHostOpen(open);
  }

  /** It was pulled out of the guest. */
  unplugged(): void {
    this.#drop();
    this.present = this.introduced = this.told = this.guestOpen = false;
  }

  /** Another device takes the place of the one it was connected to; input on its way is lost. */
  moved(hostOpen: boolean): void {
    this.#input = nothing;
    this.throttled = false;
    if (!hostOpen) this.#drop();
    this.hostOpen = hostOpen;
    this.guest?.setHostOpen(hostOpen);
  }

  /** What the host's end has not taken is for nobody any more. */
  #drop(): void {
    this.#output = nothing;
    this.throttled = false;
  }

  /**
   * Checks what has come of the guest's output.
   * @param waiting requests that the device has not used
   */
  checkOutput(waiting: number): void {
    const arrived = Buffer.concat(this.#arrived);
    this.#arrived = [];
    if (Buffer.compare(arrived, this.#output.subarray(0, arrived.length)) !== 0) {
      throw new Error(`port ${this.name ?? 0}: other output than was sent`);
    }
    this.#output = this.#output.subarray(arrived.length);
    const held = this.#accepts && this.throttled;
    if (held) return;
    if (this.#output.length > 0) throw new Error(`port ${this.name ?? 0}: output is left lying`);
    if (waiting > 0) throw new Error(`port ${this.name ?? 0}: ${waiting} requests are left lying`);
  }

  /**
   * Checks what the guest has got of the host's input.
   * @param bytes since the last time
   * @param waiting requests with room for more
   */
  checkInput(bytes: Uint8Array, waiting: number): void {
    if (Buffer.compare(bytes, this.#input.subarray(0, bytes.length)) !== 0) {
      throw new Error(`port ${this.name ?? 0}: other input than was sent`);
    }
    this.#input = this.#input.subarray(bytes.length);
    if (this.guestOpen && waiting > 0 && this.#input.length > 0) {
      throw new Error(`port ${this.name ?? 0}: input is left lying`);
    }
  }
}
