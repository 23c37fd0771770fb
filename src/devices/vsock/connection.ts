import type { Segments } from '../../virtio/segments.ts';
import type { GuestStream, HostStream } from './backend.ts';
import { ByteQueue } from './byte-queue.ts';
import { HEADER_SIZE, OP, SHUTDOWN, type Op, type PacketHeader } from './protocol.ts';

/** A guest that knows of less room than this may be waiting for more. Linux sends no packet larger than that. */
const LOW_ROOM = 64 * 1024;
/** Free-running counters of 32 bits that are further apart than this are the other way round. */
const HALF = 2 ** 31;

/** What a connection asks of its device. */
export type ConnectionOwner = {
  /** It has something to send: {@link Connection.next} and {@link Connection.sent} are called, later. */
  ready(connection: Connection): void;
};

export type ConnectionPlace = {
  readonly guestPort: number;
  readonly hostPort: number;
  /** most bytes of the guest's that wait for the host's program */
  readonly bufferSize: number;
};

/**
 * - `connecting`: the guest has asked for it, the host's program is being connected to
 * - `requested`: the host has, the guest is to answer
 * - `closing`: the host's program has gone, the guest is to agree
 * - `reset`: the guest is to be told so
 * - `detached`: of no concern to the guest any more
 */
type Phase = 'connecting' | 'requested' | 'open' | 'closing' | 'reset' | 'detached';

/** What becomes of a connection by a packet of the guest. */
export type Verdict = 'keep' | 'remove';

const difference = (a: number, b: number): number => (a - b) >>> 0;

/**
 * A stream between a program in the guest and one on the host (VIRTIO 1.2, 5.10.6). It holds at most `bufferSize`
 * bytes from the guest, which the guest has to respect, and one piece from the host, which is asked for one at a time.
 */
export class Connection implements GuestStream {
  readonly guestPort: number;
  readonly hostPort: number;
  /** it is in its device's list of those with something to send */
  queued = false;
  readonly #owner: ConnectionOwner;
  #stream: HostStream | undefined;
  #phase: Phase;
  /** the REQUEST or RESPONSE that opens it is to be sent */
  #opening = false;
  // from guest to host
  readonly #bufferSize: number;
  readonly #queue = new ByteQueue();
  /** bytes of the piece that the host takes now */
  #writing = 0;
  #received = 0;
  #forwarded = 0;
  /** what the guest was last told of the above */
  #told = 0;
  #updateDue = false;
  /** flags of the guest's SHUTDOWNs */
  #guestShutdown = 0;
  #hostTold = false;
  // from host to guest
  #piece: Uint8Array | undefined;
  #taken = 0;
  #asked = false;
  #ended = false;
  /** the connection broke: the guest is to see that, after the piece that waits */
  #lost = false;
  /** flags of the SHUTDOWN that is due, and of those sent */
  #shutdownDue = 0;
  #shutdownSent = 0;
  #guestRoom = 0;
  #guestForwarded = 0;
  #sent = 0;
  #creditRequested = false;
  /** turns of the device's clock that it has been pending for */
  #age = 0;

  /** @param stream of a connection that the host asks for */
  constructor(owner: ConnectionOwner, place: ConnectionPlace, stream?: HostStream) {
    this.#owner = owner;
    this.guestPort = place.guestPort;
    this.hostPort = place.hostPort;
    this.#bufferSize = place.bufferSize;
    this.#stream = stream;
    this.#phase = stream === undefined ? 'connecting' : 'requested';
    this.#opening = stream !== undefined;
  }

  /** Whether one side waits for the other in a way that must not last. */
  get isPending(): boolean {
    return this.#phase === 'connecting' || this.#phase === 'requested' || this.#phase === 'closing';
  }

  /** A turn of the device's clock. Ends the connection where it has been pending for so many. */
  tick(limit: number): void {
    this.#age = this.isPending ? this.#age + 1 : 0;
    if (this.#age > limit) this.reset();
  }

  /** Takes what the guest says of itself as it asks for a connection; false where that cannot be. */
  request(header: PacketHeader): boolean {
    return this.#takeCredit(header);
  }

  /** Gives a connection that the guest asks for its other end. */
  attach(stream: HostStream): void {
    this.#stream = stream;
  }

  // The host's end.

  connected(): void {
    if (this.#phase !== 'connecting') return;
    this.#phase = 'open';
    this.#opening = true;
    this.#ask();
    this.#wake();
  }

  written(): void {
    this.#forwarded = (this.#forwarded + this.#writing) >>> 0;
    this.#writing = 0;
    this.#write();
    if (this.#phase !== 'open') return;
    const room = this.#bufferSize - difference(this.#received, this.#told);
    const news = difference(this.#forwarded, this.#told);
    if (
      room < Math.min(LOW_ROOM, this.#bufferSize / 2) &&
      (2 * news >= this.#bufferSize || this.#isWritten())
    ) {
      this.#updateDue = true;
      this.#wake();
    }
  }

  data(bytes: Uint8Array): void {
    this.#asked = false;
    if (this.#phase === 'detached' || this.#phase === 'reset') return;
    if ((this.#guestShutdown & SHUTDOWN.receive) !== 0 || bytes.length === 0) {
      this.#ask();
      return;
    }
    this.#piece = bytes;
    this.#taken = 0;
    this.#wake();
  }

  ended(): void {
    this.#asked = false;
    this.#ended = true;
    this.#shutdownDue |= SHUTDOWN.send;
    this.#wake();
  }

  closed(failed: boolean): void {
    // The guest still gets what has come of its data.
    this.#lost = failed || !this.#isWritten();
    this.#stream = undefined;
    this.#asked = false;
    this.#queue.clear();
    if (this.#phase === 'open') {
      this.#shutdownDue = SHUTDOWN.both;
      this.#wake();
    } else if (this.#phase !== 'detached') this.reset();
  }

  // The device's side.

  /** Ends it for both, for the guest by a RST. */
  reset(): void {
    this.#drop();
    this.#phase = 'reset';
    this.#wake();
  }

  /** The guest has gone without a word: the host's program still gets all that it has sent. */
  detach(): void {
    if (this.#phase === 'open') this.#finish();
    else if (!this.#isFinishing) this.#drop();
    this.#phase = 'detached';
  }

  /** A packet of the guest for this connection, other than REQUEST; its payload is `length` bytes of a chain. */
  receive(header: PacketHeader, payload: Segments): Verdict {
    const { op } = header;
    if (op === OP.reset) {
      if (!this.#isFinishing) this.#drop();
      this.#phase = 'detached';
      return 'remove';
    }
    // It may have been on its way before the guest hears of it.
    if (this.#phase === 'reset') return 'keep';
    const isKept = this.#takeCredit(header) && this.#handle(op, header, payload);
    if (!isKept) this.reset();
    return 'keep';
  }

  /** What it has to send now, most urgent first. */
  next(): Op | undefined {
    if (this.#phase === 'reset') return OP.reset;
    if (this.#opening) return this.#phase === 'requested' ? OP.request : OP.response;
    if (this.#phase !== 'open') return undefined;
    if (this.#piece !== undefined) {
      if (this.#credit() > 0) return OP.data;
      if (!this.#creditRequested) return OP.creditRequest;
    } else if (this.#lost) return OP.reset;
    else if ((this.#shutdownDue & ~this.#shutdownSent) !== 0) return OP.shutdown;
    return this.#updateDue ? OP.creditUpdate : undefined;
  }

  /** Moves data of the host's into a packet's payload; returns how much. */
  fill(target: Segments): number {
    const piece = this.#piece;
    if (piece === undefined) return 0;
    const room = Math.min(target.byteLength - HEADER_SIZE, this.#credit());
    const left = piece.length - this.#taken;
    const bytes = this.#taken === 0 && left <= room ? piece : piece.subarray(this.#taken, this.#taken + room);
    const length = target.write(HEADER_SIZE, bytes);
    this.#taken += length;
    this.#sent = (this.#sent + length) >>> 0;
    if (this.#taken === piece.length) {
      this.#piece = undefined;
      this.#ask();
    }
    return length;
  }

  /** Completes the header of a packet, which is sent with that. */
  sent(op: Op, header: PacketHeader, guestCid: number, length: number): void {
    const flags = op === OP.shutdown ? this.#shutdownDue : 0;
    header.set(guestCid, this.hostPort, this.guestPort, op, flags, length);
    if (op === OP.reset) {
      this.#phase = 'detached';
      return;
    }
    header.setCredit(this.#bufferSize, this.#forwarded);
    this.#told = this.#forwarded;
    this.#updateDue = false;
    if (op === OP.request || op === OP.response) this.#opening = false;
    else if (op === OP.creditRequest) this.#creditRequested = true;
    else if (op === OP.shutdown) {
      this.#shutdownSent |= flags;
      if (this.#shutdownSent === SHUTDOWN.both) this.#phase = 'closing';
    }
  }

  /** Returns whether the packet makes sense. */
  #handle(op: number, header: PacketHeader, payload: Segments): boolean {
    if (this.#phase === 'connecting') return false;
    if (this.#phase === 'requested') return op === OP.response && !this.#opening && this.#accept();
    switch (op) {
      case OP.data:
        return this.#receiveData(header.length, payload);
      case OP.creditUpdate:
        return true;
      case OP.creditRequest:
        this.#updateDue = true;
        this.#wake();
        return true;
      case OP.shutdown:
        return this.#receiveShutdown(header.flags & SHUTDOWN.both);
      default:
        return false;
    }
  }

  #accept(): boolean {
    this.#phase = 'open';
    this.#stream?.accepted(this.hostPort);
    this.#ask();
    return true;
  }

  #receiveData(length: number, payload: Segments): boolean {
    if ((this.#guestShutdown & SHUTDOWN.send) !== 0 || this.#stream === undefined) return false;
    if (difference(this.#received, this.#forwarded) + length > this.#bufferSize) return false;
    this.#received = (this.#received + length) >>> 0;
    this.#queue.push(payload, HEADER_SIZE, length);
    this.#write();
    return true;
  }

  #receiveShutdown(flags: number): boolean {
    this.#guestShutdown |= flags;
    if (this.#guestShutdown === SHUTDOWN.both) {
      // All that it has sent is here, so it need not wait until the host's program has taken that.
      this.#finish();
      this.#phase = 'reset';
      this.#wake();
      return true;
    }
    if ((this.#guestShutdown & SHUTDOWN.receive) !== 0) {
      this.#piece = undefined;
      this.#ask();
    }
    this.#write();
    this.#wake();
    return true;
  }

  /** What the guest says of its own buffer in each packet; false where that cannot be. */
  #takeCredit({ bufferSize, forwarded }: PacketHeader): boolean {
    // Packets of several threads in the guest may come in another order than they were made in.
    if (difference(forwarded, this.#sent) < HALF && forwarded !== this.#sent) return false;
    this.#guestRoom = Math.min(bufferSize, HALF - 1);
    if (difference(forwarded, this.#guestForwarded) < HALF) this.#guestForwarded = forwarded;
    this.#creditRequested &&= this.#credit() === 0;
    this.#wake();
    return true;
  }

  /** Bytes that the guest has room for. */
  #credit(): number {
    return Math.max(0, this.#guestRoom - difference(this.#sent, this.#guestForwarded));
  }

  /** Hands the host's program the next piece, or tells it that there are no more. */
  #write(): void {
    const stream = this.#stream;
    if (stream === undefined || this.#writing > 0) return;
    const piece = this.#queue.shift();
    if (piece !== undefined) {
      this.#writing = piece.length;
      stream.write(piece);
      return;
    }
    if (this.#isFinishing) {
      this.#stream = undefined;
      stream.close();
    } else if ((this.#guestShutdown & SHUTDOWN.send) !== 0 && !this.#hostTold) {
      this.#hostTold = true;
      stream.end();
    }
  }

  /** Nothing goes to the guest any more, and nothing comes; the host's program gets what there is. */
  #finish(): void {
    this.#guestShutdown = SHUTDOWN.both;
    this.#piece = undefined;
    this.#write();
  }

  /** The guest is done with it, and the host's program may still have to take the rest. */
  get #isFinishing(): boolean {
    return this.#guestShutdown === SHUTDOWN.both;
  }

  #isWritten(): boolean {
    return this.#writing === 0 && this.#queue.length === 0;
  }

  /** Asks the host's program for more where nothing of it waits. */
  #ask(): void {
    if (this.#asked || this.#ended || this.#piece !== undefined || this.#stream === undefined) return;
    this.#asked = true;
    this.#stream.more();
  }

  #drop(): void {
    this.#stream?.destroy();
    this.#stream = undefined;
    this.#piece = undefined;
    this.#queue.clear();
  }

  #wake(): void {
    if (!this.queued && this.next() !== undefined) this.#owner.ready(this);
  }
}
