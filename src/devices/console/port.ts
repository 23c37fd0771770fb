import type { Chain } from '../../virtio/chain.ts';
import { popOrArm } from '../../virtio/pop-or-arm.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import { InputQueue } from './input-queue.ts';
import type { PortState } from './state.ts';

/** Most bytes of host input that wait for the guest, a port. */
export const INPUT_LIMIT = 64 * 1024;
/** Output is handed over in pieces of at most this many bytes, however long a request is; Linux makes none longer. */
export const OUTPUT_PIECE = 32 * 1024;
/** After so many bytes in a row it is the turn of the event loop's other work. */
const TURN_BYTES = 1024 * 1024;
/** What a request counts for in a turn besides its bytes. */
const REQUEST_COST = 512;

/** What the host's end of a port does; everything is called on the event loop, and must not throw. */
export type PortBackend = {
  /**
   * The guest's end is there; undefined: it has gone for good, as with a machine that is reset. The device of the
   * next boot connects anew.
   */
  connect(guest: GuestEnd | undefined): void;
  /**
   * Takes what the guest has sent; the bytes are the callee's to keep. Returns whether it takes more: where not, it
   * gets no more until it has called {@link GuestEnd.resumeOutput}, and the guest's requests stay in its queue.
   */
  output(bytes: Uint8Array): boolean;
  /** A program in the guest has opened or closed the port. */
  guestOpened?(open: boolean): void;
};

/** What a backend sees of the guest. */
export type GuestEnd = {
  /** a program has the port open; for a console, its driver is there */
  readonly guestOpen: boolean;
  /** bytes that {@link input} would take now */
  readonly inputRoom: number;
  /**
   * Sends `bytes` to the guest, all or nothing; resolves once its buffers have taken them, which may be never: a
   * guest that has not opened the port takes nothing. Rejects with a RangeError where they are more than
   * {@link inputRoom}, and when the device goes away or the input is withdrawn.
   */
  input(bytes: Uint8Array): Promise<void>;
  /** Drops the input that the guest has not taken. */
  withdrawInput(): void;
  /**
   * Tells the guest that somebody is at the host's end, or nobody. What the guest sends to nobody is dropped.
   * Consoles are always open.
   */
  setHostOpen(open: boolean): void;
  resumeOutput(): void;
};

export type PortFacts = {
  readonly name: string | undefined;
  readonly isConsole: boolean;
  readonly backend: PortBackend;
  /** in messages */
  readonly label: string;
  /** calls back later in the event loop */
  readonly defer: (callback: () => void) => void;
  /** the host's end was opened or closed */
  readonly hostChanged: () => void;
};

/** One port: a pair of queues, and what is known of both ends. */
export class ConsolePort implements GuestEnd {
  readonly name: string | undefined;
  readonly isConsole: boolean;
  /** announced to the driver; false where it is unplugged */
  present = true;
  /** the driver has said PORT_READY */
  ready = false;
  readonly #backend: PortBackend;
  readonly #label: string;
  readonly #defer: (callback: () => void) => void;
  readonly #hostChanged: () => void;
  readonly #pending = new InputQueue(INPUT_LIMIT);
  #receive: Virtqueue | undefined;
  #transmit: Virtqueue | undefined;
  #guestOpen = false;
  #hostOpen: boolean;
  /** the backend takes nothing now */
  #throttled = false;
  #paused = false;
  #closed = false;
  /** what is in the queue was for somebody who has gone, up to where it is found empty */
  #dropping = false;
  #serving = false;
  #deferred = false;
  /** the request that the host has taken a part of, and that part */
  #partial: Chain | undefined;
  #offset = 0;
  /** the same of a restored port, until its request is popped again */
  #restored: PortState['partial'];

  constructor({ name, isConsole, backend, label, defer, hostChanged }: PortFacts) {
    this.name = name;
    this.isConsole = this.#hostOpen = isConsole;
    this.#backend = backend;
    this.#label = label;
    this.#defer = defer;
    this.#hostChanged = hostChanged;
  }

  get guestOpen(): boolean {
    return this.#guestOpen;
  }

  get hostOpen(): boolean {
    return this.#hostOpen;
  }

  get inputRoom(): number {
    return this.#closed ? 0 : this.#pending.room;
  }

  input(bytes: Uint8Array): Promise<void> {
    if (this.#closed) return Promise.reject(new Error(`${this.#label} is gone`));
    const taken = this.#pending.push(bytes);
    // Who does not wait for the outcome must not be ended by it as an unhandled rejection.
    taken.catch(() => undefined);
    this.fill();
    return taken;
  }

  withdrawInput(): void {
    this.#pending.clear(new Error(`the input of ${this.#label} was withdrawn`));
  }

  setHostOpen(open: boolean): void {
    if (this.isConsole || this.#closed || open === this.#hostOpen) return;
    this.#hostOpen = open;
    if (!open) this.#drop();
    this.#hostChanged();
  }

  resumeOutput(): void {
    this.#throttled = false;
    this.serve();
  }

  /** Output from outside the queues. */
  emergency(byte: number): void {
    this.#backend.output(Uint8Array.of(byte));
  }

  /** Tells the backend whom it talks to. */
  connect(): void {
    this.#backend.connect(this);
  }

  /** It is pulled out of the guest. */
  unplug(): void {
    this.present = this.ready = false;
    this.setGuestOpen(false);
    this.#drop();
  }

  /** The driver is there. */
  attach(receive: Virtqueue | undefined, transmit: Virtqueue | undefined): void {
    this.#receive = receive;
    this.#transmit = transmit;
  }

  /** The driver is gone, and what it had opened and sent with it; input waits for the next one. */
  detach(): void {
    this.#receive = this.#transmit = this.#partial = this.#restored = undefined;
    this.ready = this.#dropping = false;
    this.setGuestOpen(false);
  }

  setGuestOpen(open: boolean): void {
    if (open === this.#guestOpen) return;
    this.#guestOpen = open;
    this.#backend.guestOpened?.(open);
    if (open) this.fill();
  }

  pause(): void {
    this.#paused = true;
  }

  /** All queues are notified afterwards. */
  resume(): void {
    this.#paused = false;
  }

  /** The device is gone for good. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.detach();
    this.#pending.clear(new Error(`${this.#label} is gone`));
    this.#backend.connect(undefined);
  }

  /** Hands over what the guest has sent, as far as the backend takes it. */
  serve(): void {
    const queue = this.#transmit;
    if (queue === undefined || this.#serving || this.#isHeld()) return;
    this.#serving = true;
    try {
      queue.disableNotifications();
      let left = TURN_BYTES;
      while (left > 0) {
        const chain = this.#next(queue);
        if (chain === undefined) {
          this.#dropping = false;
          break;
        }
        left -= REQUEST_COST + this.#pass(queue, chain, left);
        if (this.#isHeld()) break;
      }
      queue.flush();
      if (left <= 0) this.#later();
    } finally {
      this.#serving = false;
    }
  }

  /** Moves input into the buffers that the guest has given. */
  fill(): void {
    const queue = this.#receive;
    if (queue === undefined || this.#paused) return;
    if (!this.#guestOpen || this.#pending.length === 0) {
      queue.disableNotifications();
      return;
    }
    let left = TURN_BYTES;
    while (this.#pending.length > 0 && left > 0) {
      const chain = popOrArm(queue, () => this.#later());
      if (chain === undefined) break;
      const written = this.#pending.take(chain.writable);
      queue.push(chain.head, written);
      left -= REQUEST_COST + written;
    }
    queue.flush();
    if (left <= 0) this.#later();
    else if (this.#pending.length === 0) queue.disableNotifications();
  }

  save(): PortState {
    const partial = this.#partial
      ? { head: this.#partial.head, offset: this.#offset }
      : this.#restored && { ...this.#restored };
    return {
      present: this.present,
      ready: this.ready,
      guestOpen: this.#guestOpen,
      hostOpen: this.#hostOpen,
      dropping: this.#dropping,
      ...(partial !== undefined && { partial }),
    };
  }

  /** Takes what the guest knows of the port; whether the host's end is open is for the host to say. */
  restore(state: PortState): void {
    this.present = state.present;
    this.ready = state.ready;
    this.#dropping = state.dropping;
    this.#restored = state.partial;
    this.setGuestOpen(state.guestOpen);
  }

  /** What the last one did not take is not for the next one. */
  #drop(): void {
    this.#throttled = false;
    this.#dropping = true;
    this.serve();
  }

  #next(queue: Virtqueue): Chain | undefined {
    if (this.#partial !== undefined) return this.#partial;
    const chain = popOrArm(queue, () => this.#later());
    if (chain === undefined) return undefined;
    // It is the first one popped after a restore, as it was in flight.
    this.#offset = this.#restored?.head === chain.head ? this.#restored.offset : 0;
    this.#restored = undefined;
    return chain;
  }

  /** Hands over up to about `limit` bytes of a request and completes it, or keeps it; returns the bytes. */
  #pass(queue: Virtqueue, chain: Chain, limit: number): number {
    const { readable } = chain;
    let done = 0;
    while (this.#accepts() && this.#offset < readable.byteLength && done < limit) {
      const bytes = new Uint8Array(Math.min(OUTPUT_PIECE, readable.byteLength - this.#offset));
      readable.read(this.#offset, bytes);
      this.#offset += bytes.length;
      done += bytes.length;
      if (this.#backend.output(bytes)) continue;
      // The backend may have closed its end just now: then there is nothing to wait for.
      this.#throttled = this.#accepts();
      break;
    }
    if (this.#accepts() && this.#offset < readable.byteLength) {
      this.#partial = chain;
      return done;
    }
    this.#partial = undefined;
    queue.push(chain.head, 0);
    return done;
  }

  /** Whether requests stay in the queue. */
  #isHeld(): boolean {
    return this.#throttled || this.#paused;
  }

  /** Whether output goes anywhere. */
  #accepts(): boolean {
    return this.#hostOpen && this.present && !this.#dropping;
  }

  #later(): void {
    if (this.#deferred) return;
    this.#deferred = true;
    this.#defer(() => {
      this.#deferred = false;
      this.serve();
      this.fill();
    });
  }
}
