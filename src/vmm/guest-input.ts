/** Input goes to the device in pieces of this many bytes. */
const INPUT_PIECE = 4096;

/** The guest's end of a console or a port, as far as input is concerned. It changes when the machine is reset. */
export type InputTaker = { input(bytes: Uint8Array): Promise<void> };

/** Input for whichever machine is there: in order, one piece after the other, and waiting while there is none. */
export class GuestInput {
  readonly #what: string;
  #guest: InputTaker | undefined;
  /** ends the wait for this machine to take a piece, or for another one */
  #proceed: (() => void) | undefined;
  #queue: Promise<void> = Promise.resolve();
  #closed = false;

  /** @param what in messages, e.g. `console` */
  constructor(what: string) {
    this.#what = what;
  }

  /**
   * Resolves once the guest has taken all of it. Rejects when the VM ends.
   * @param bytes not changed by the caller until then
   * @param isWanted asked before each piece; where it says no the rest is dropped
   */
  send(bytes: Uint8Array, isWanted: () => boolean = () => true): Promise<void> {
    const done = this.#queue.then(() => this.#send(bytes, isWanted));
    this.#queue = done.catch(() => undefined);
    return done;
  }

  /** Connects a machine's device; none while it is being reset. */
  connect(guest: InputTaker | undefined): void {
    this.#guest = guest;
    this.#proceed?.();
  }

  /** The VM has ended: pending and later input is refused. */
  close(): void {
    this.#closed = true;
    this.#guest = undefined;
    this.#proceed?.();
  }

  async #send(bytes: Uint8Array, isWanted: () => boolean): Promise<void> {
    for (let at = 0; at < bytes.length && isWanted();) {
      this.#checkOpen();
      const guest = this.#guest;
      const piece = bytes.subarray(at, at + INPUT_PIECE);
      if (guest !== undefined) at += piece.length;
      // Where the device goes away with its machine, what the guest had not taken is lost with it, as on a reset PC.
      await new Promise<void>((resolve, reject) => {
        this.#proceed = resolve;
        guest?.input(piece).then(resolve, (error: unknown) => {
          if (this.#guest === guest) reject(error instanceof Error ? error : new Error(String(error)));
          else resolve();
        });
      });
      this.#checkOpen();
    }
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error(`the VM has ended, its ${this.#what} takes no input`);
  }
}
