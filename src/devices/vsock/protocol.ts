/** Packets of the socket device (VIRTIO 1.2, 5.10.6). */

/** The host's address; 0, 1 and 2^32 - 1 are reserved too (5.10.4). */
export const HOST_CID = 2;
export const MIN_GUEST_CID = 3;
export const MAX_GUEST_CID = 0xffff_fffe;

export const TYPE_STREAM = 1;

export const OP = {
  request: 1,
  response: 2,
  reset: 3,
  shutdown: 4,
  data: 5,
  creditUpdate: 6,
  creditRequest: 7,
} as const;

export type Op = (typeof OP)[keyof typeof OP];

/** What the sender of SHUTDOWN does no more (5.10.6.5). */
export const SHUTDOWN = { receive: 1, send: 2, both: 3 } as const;

/** The one event that there is: all connections are gone (5.10.6.7). */
export const EVENT_SIZE = 4;
export const TRANSPORT_RESET = 0;

/** bytes of a packet before its payload */
export const HEADER_SIZE = 44;

/** A packet's header in a buffer of its own, which is used over and over. */
export class PacketHeader {
  readonly bytes = new Uint8Array(HEADER_SIZE);
  readonly #view = new DataView(this.bytes.buffer);

  /** Addresses are exact up to 2^53, and no address that counts is larger. */
  get sourceCid(): number {
    return this.#cid(0);
  }

  get targetCid(): number {
    return this.#cid(8);
  }

  get sourcePort(): number {
    return this.#view.getUint32(16, true);
  }

  get targetPort(): number {
    return this.#view.getUint32(20, true);
  }

  /** bytes of payload */
  get length(): number {
    return this.#view.getUint32(24, true);
  }

  get type(): number {
    return this.#view.getUint16(28, true);
  }

  get op(): number {
    return this.#view.getUint16(30, true);
  }

  get flags(): number {
    return this.#view.getUint32(32, true);
  }

  /** the sender's room for payload, in bytes */
  get bufferSize(): number {
    return this.#view.getUint32(36, true);
  }

  /** free-running count of the bytes that the sender has taken out of that room */
  get forwarded(): number {
    return this.#view.getUint32(40, true);
  }

  /** From the host to a stream socket of the guest. */
  set(guestCid: number, hostPort: number, guestPort: number, op: Op, flags: number, length: number): void {
    this.#setCid(0, HOST_CID);
    this.#setCid(8, guestCid);
    this.#view.setUint32(16, hostPort, true);
    this.#view.setUint32(20, guestPort, true);
    this.#view.setUint32(24, length, true);
    this.#view.setUint16(28, TYPE_STREAM, true);
    this.#view.setUint16(30, op, true);
    this.#view.setUint32(32, flags, true);
    this.setCredit(0, 0);
  }

  setCredit(bufferSize: number, forwarded: number): void {
    this.#view.setUint32(36, bufferSize, true);
    this.#view.setUint32(40, forwarded, true);
  }

  /** The RST that answers `packet`, whatever addresses and type that has. */
  setRefusal(packet: Uint8Array): void {
    this.bytes.fill(0);
    this.bytes.set(packet.subarray(8, 16), 0);
    this.bytes.set(packet.subarray(0, 8), 8);
    this.bytes.set(packet.subarray(20, 24), 16);
    this.bytes.set(packet.subarray(16, 20), 20);
    this.bytes.set(packet.subarray(28, 30), 28);
    this.#view.setUint16(30, OP.reset, true);
  }

  #cid(at: number): number {
    return this.#view.getUint32(at + 4, true) * 2 ** 32 + this.#view.getUint32(at, true);
  }

  #setCid(at: number, cid: number): void {
    this.#view.setUint32(at, cid, true);
    this.#view.setUint32(at + 4, 0, true);
  }
}
