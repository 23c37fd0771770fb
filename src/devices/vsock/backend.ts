/**
 * What the socket device and the host's side of its connections ask of each other. Everything is called on the event
 * loop, and must not throw.
 */

/** The host's end of one connection. */
export type HostStream = {
  /** The guest has accepted a connection that the host has asked for. Nothing is written before. */
  accepted(hostPort: number): void;
  /** Takes a piece, which is the stream's to keep; {@link GuestStream.written} follows before the next one comes. */
  write(bytes: Uint8Array): void;
  /** No more is written; reading goes on. */
  end(): void;
  /** Asks for one piece of what the host has sent, which comes by {@link GuestStream.data} or `ended`. */
  more(): void;
  /** All is written that will be, and nothing is read any more: closes once the host's program has the rest. */
  close(): void;
  /** Closes at once; nothing is called after that. */
  destroy(): void;
};

/** The guest's end of one connection. */
export type GuestStream = {
  /** A connection that the guest has asked for is there. */
  connected(): void;
  /** The last piece is on its way to the host's program. */
  written(): void;
  /** A piece of at most 64 KiB that was asked for; the bytes are the callee's to keep. */
  data(bytes: Uint8Array): void;
  /** The host's program sends no more. */
  ended(): void;
  /**
   * The host's program has gone, and takes no more either. Nothing is called after that.
   * @param failed before it has said that it sends no more; a connection that could not be made, too
   */
  closed(failed: boolean): void;
};

/** What a backend sees of a guest. */
export type GuestSockets = {
  /**
   * Connects to a port of the guest: `accepted` or `destroy` of the stream follows.
   * Undefined where there is no driver, or there are too many connections.
   */
  open(guestPort: number, stream: HostStream): GuestStream | undefined;
};

export type VsockBackend = {
  /** The guest is there; undefined: it has gone for good, as with a machine that is reset. */
  attach(guest: GuestSockets | undefined): void;
  /**
   * Connects to a port of the host: `connected` or `closed` of the guest's end follows, later.
   * Undefined where that is refused at once.
   */
  connect(hostPort: number, guest: GuestStream): HostStream | undefined;
};
