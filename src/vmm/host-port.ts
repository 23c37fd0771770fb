import { Duplex } from 'node:stream';
import type { GuestEnd, PortBackend } from '../devices/console/port.ts';
import { GuestInput } from './guest-input.ts';

/** Bytes of output that wait for their reader, a port, before the guest has to wait. */
const OUTPUT_LIMIT = 256 * 1024;

/** A port that somebody has open already. */
export class PortBusyError extends Error {
  override readonly name = 'PortBusyError';
  readonly code = 'EBUSY';
}

/** The host's end of a named port, for one user at a time: outlives the devices of one boot. */
export class HostPort implements PortBackend {
  readonly name: string;
  readonly #input: GuestInput;
  #guest: GuestEnd | undefined;
  #session: Session | undefined;
  #closed = false;
  #openedAt: number | undefined;

  constructor(name: string) {
    this.name = name;
    this.#input = new GuestInput(`port ${name}`);
  }

  /** Whether somebody has it open here. */
  get isOpen(): boolean {
    return this.#session !== undefined;
  }

  /** Whether a program in the guest has it open. */
  get guestOpen(): boolean {
    return this.#guest?.guestOpen ?? false;
  }

  /** When a program in the guest has opened it first, in milliseconds of `performance.now()`. */
  get guestOpenedAt(): number | undefined {
    return this.#openedAt;
  }

  guestOpened(open: boolean): void {
    if (open) this.#openedAt ??= performance.now();
  }

  /**
   * Opens the port: the guest sees it open until the stream is destroyed. A reader that stalls makes the guest's
   * program wait, a guest that does not read makes the writer wait. Ending the stream's writable side is not shown to
   * the guest; its readable side ends with the VM.
   * @throws PortBusyError where it is open
   */
  open(): Duplex {
    if (this.#session !== undefined) throw new PortBusyError(`port ${this.name} is open already`);
    const session: Session = new Session({
      send: (bytes) => this.#input.send(bytes, () => !session.destroyed),
      resume: () => this.#guest?.resumeOutput(),
      ended: () => this.#ended(session),
    });
    if (this.#closed) session.push(null);
    this.#session = session;
    this.#guest?.setHostOpen(true);
    return session;
  }

  connect(guest: GuestEnd | undefined): void {
    this.#guest = guest;
    this.#input.connect(guest);
    if (this.isOpen) guest?.setHostOpen(true);
  }

  output(bytes: Uint8Array): boolean {
    return this.#session?.deliver(bytes) ?? true;
  }

  /** The VM has ended: the stream that is open ends after what it has, and takes no input any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#input.close();
    this.#session?.push(null);
  }

  #ended(session: Session): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    // The next one is not to be taken for the continuation of what this one has begun.
    this.#guest?.withdrawInput();
    this.#guest?.setHostOpen(false);
  }
}

type SessionHooks = { send(bytes: Uint8Array): Promise<void>; resume(): void; ended(): void };

/** A port that is open, as a stream. */
class Session extends Duplex {
  readonly #hooks: SessionHooks;
  #wanted = false;

  constructor(hooks: SessionHooks) {
    super({ allowHalfOpen: true, readableHighWaterMark: OUTPUT_LIMIT });
    this.#hooks = hooks;
  }

  /** Returns whether it takes more; where not, it resumes the port later. */
  deliver(bytes: Uint8Array): boolean {
    this.#wanted = false;
    // A reader may ask for more from within push(), and does not ask again then.
    return this.push(bytes) || this.#wanted;
  }

  override _read(): void {
    this.#wanted = true;
    this.#hooks.resume();
  }

  override _write(bytes: Uint8Array, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#hooks.send(bytes).then(
      () => done(),
      (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
    );
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#hooks.ended();
    done(error);
  }
}
