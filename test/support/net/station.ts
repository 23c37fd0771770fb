import { VNET_HEADER, type FramePort } from '../../../src/kvm/frame-port.ts';

const LONGEST = 70_000;
const LIMIT_MS = 10_000;

/** A guest's network card without a guest: frames out of and into a port, one at a time. */
export class Station {
  readonly mac: Buffer;
  /** all that came and was not asked for yet */
  readonly heard: Buffer[] = [];
  /** offload headers of all that came, where there are any */
  readonly headers: Buffer[] = [];
  readonly #port: FramePort;
  readonly #header: number;
  readonly #memory = new Uint8Array(LONGEST);
  readonly #number: number;
  #wake: (() => void) | undefined;

  /** @param vnetHeader whether frames have offload headers on the wire, which are empty here */
  constructor(port: FramePort, mac: string, vnetHeader = false) {
    this.#port = port;
    this.mac = Buffer.from(mac.replaceAll(':', ''), 'hex');
    this.#header = vnetHeader ? VNET_HEADER : 0;
    this.#number = port.register(this.#memory);
    port.configure({ header: vnetHeader });
    port.user = { readable: () => this.#take(), writable: () => undefined };
    port.listen(true);
  }

  /** Sends a frame; returns whether the host has taken it. */
  send(frame: Uint8Array): boolean {
    this.#memory.fill(0, 0, this.#header);
    this.#memory.set(frame, this.#header);
    this.#port.tx.add(this.#number, 0, this.#header + frame.length);
    this.#port.tx.end();
    const before = this.#port.counters.sentFrames;
    this.#port.send();
    this.#port.tx.clear();
    return this.#port.counters.sentFrames > before;
  }

  /** The next frame that is one of those; what comes before it is forgotten. */
  async next<T>(read: (frame: Buffer) => T | undefined, limitMs = LIMIT_MS): Promise<T> {
    const found = await this.maybe(read, limitMs);
    if (found === undefined) throw new Error(`no such frame within ${limitMs} ms`);
    return found;
  }

  /** As {@link next}; undefined where none comes in time. */
  async maybe<T>(read: (frame: Buffer) => T | undefined, limitMs: number): Promise<T | undefined> {
    const end = performance.now() + limitMs;
    for (;;) {
      for (let frame = this.heard.shift(); frame !== undefined; frame = this.heard.shift()) {
        const found = read(frame);
        if (found !== undefined) return found;
      }
      const left = end - performance.now();
      if (left <= 0) return undefined;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  #take(): void {
    for (let count = this.#port.fetch(); count > 0; count = this.#port.fetch()) {
      const staging = this.#port.staging!;
      for (let i = 0; i < count; i++) {
        const from = this.#port.offset(i) + this.#header;
        if (this.#header > 0) this.headers.push(Buffer.from(staging.slice(from - this.#header, from)));
        this.heard.push(Buffer.from(staging.slice(from, from - this.#header + this.#port.length(i))));
      }
      this.#port.consume(count);
    }
    this.#wake?.();
  }
}
