/**
 * Frames in batches between memory and one descriptor of the host, a tap or a unix stream socket: a native call a
 * batch, and no byte of a frame passes through JavaScript.
 */
import { markAsUntransferable } from 'node:worker_threads';
import { AREA, FrameList } from './frame-list.ts';
import { FrameFilter } from './frame-filter.ts';
import { native, type NativeFramePort } from './native.ts';

/** What is left to the other side: checksums, and cutting TCP segments. The addon's numbers (native/vnet_header.h). */
export const OFFLOAD = { checksum: 1, tso4: 2, tso6: 4, ecn: 8 } as const;

/** bytes of the header that tells of offloads (struct virtio_net_hdr_v1) */
export const VNET_HEADER = 12;

/** longest frame, without any header before it */
export const LONGEST_FRAME = 69632;

/** Why a receive call ended: nothing is there; no buffer is left; others should have their turn. */
export const RECEIVED = { drained: 0, starved: 1, more: 2 } as const;
export type Received = (typeof RECEIVED)[keyof typeof RECEIVED];

/** Why a descriptor gives and takes nothing any more. */
export type FrameEnd =
  | { readonly kind: 'closed' }
  | { readonly kind: 'error'; readonly errno: number }
  /** the peer announced a frame of a length that none can have */
  | { readonly kind: 'protocol' };

/** Who sends and receives. Called on the event loop. */
export type FrameUser = {
  /** Frames may be there. Called again and again until they are taken, or {@link FramePort.listen} ends it. */
  readable(): void;
  /** After {@link FramePort.send} took less than there was: it takes more now. */
  writable(): void;
};

export type FrameFormat = {
  /** frames in memory begin with an offload header of 12 bytes; default false */
  readonly header?: boolean;
  /** with headers: a received frame may go over several records; default false */
  readonly mergeable?: boolean;
  /** set of {@link OFFLOAD} that headers of frames to be sent may ask for; where the host has none, done here */
  readonly hostOffloads?: number;
  /** what may be left undone in received frames; anything else is done here before they are delivered */
  readonly guestOffloads?: number;
};

/** frames and bytes since the port was made; bytes without headers */
export type FrameCounters = {
  readonly receivedFrames: number;
  readonly receivedBytes: number;
  /** not for this station */
  readonly filtered: number;
  /** received, and of no use: larger than the buffers, or not a frame */
  readonly receiveDrops: number;
  readonly sentFrames: number;
  readonly sentBytes: number;
  /** not sent for a header that makes no sense, or a length that no frame has */
  readonly refused: number;
  /** not sent since nothing was connected, or the host had no room */
  readonly sendDrops: number;
};

/**
 * A way in and out for frames. It outlives what it is connected to: while nothing is, what is sent is dropped.
 *
 * To send: `tx.add()` the pieces of a frame, `tx.end()`, and {@link send}. To receive: `rx.add()` the pieces of a
 * buffer, `rx.end()`, and {@link receive}; or {@link fetch}, to look at frames where they are.
 */
export class FramePort {
  readonly tx: FrameList;
  readonly rx: FrameList;
  readonly filter: FrameFilter;
  user: FrameUser | undefined;
  /** What it was connected to is over; {@link shut} and {@link open} are the callee's business. */
  onEnd: ((end: FrameEnd) => void) | undefined;
  /** The host takes no more for now, or takes some again. */
  onBlocked: ((blocked: boolean) => void) | undefined;
  readonly #native: NativeFramePort;
  readonly #counters: Float64Array;
  /** receive_end, blocked, ended, end_code */
  readonly #status: Int32Array;
  readonly #spans: Uint32Array;
  /** counts connections, so that an end that is told late is not taken for that of the next */
  #generation = 0;
  #told = false;
  #wasBlocked = false;
  #staging: Uint8Array | undefined;

  constructor() {
    this.#native = new (native().FramePort)();
    const area = this.#native.area();
    this.#counters = new Float64Array(area, AREA.counters, 8);
    this.#status = new Int32Array(area, AREA.status, 4);
    this.#spans = new Uint32Array(area, AREA.spans, 2 * 1024);
    this.filter = new FrameFilter(area);
    this.tx = new FrameList(area, AREA.tx, AREA.txPieces);
    this.rx = new FrameList(area, AREA.rx, AREA.rxPieces);
    this.#native.onReadable = () => this.user?.readable();
    this.#native.onWritable = () => {
      this.#look();
      this.user?.writable();
    };
    this.#native.onHangUp = () => this.#ended({ kind: 'closed' });
  }

  /** Whether it is connected to something that has not ended. */
  get isOpen(): boolean {
    return this.#native.fd >= 0 && this.#status[2] === 0;
  }

  /** The descriptor, which the port will close; -1 where there is none. */
  get fd(): number {
    return this.#native.fd;
  }

  /** Whether the host takes no more for now; `writable` follows. */
  get isBlocked(): boolean {
    return this.#status[1] !== 0;
  }

  get receivedFrames(): number {
    return this.#counters[0]!;
  }

  get receivedBytes(): number {
    return this.#counters[1]!;
  }

  get counters(): FrameCounters {
    const [
      receivedFrames = 0,
      receivedBytes = 0,
      filtered = 0,
      receiveDrops = 0,
      sentFrames = 0,
      sentBytes = 0,
      refused = 0,
      sendDrops = 0,
    ] = this.#counters;
    return {
      receivedFrames,
      receivedBytes,
      filtered,
      receiveDrops,
      sentFrames,
      sentBytes,
      refused,
      sendDrops,
    };
  }

  /** Numbers a buffer for {@link tx} and {@link rx}, and holds it. It cannot be transferred to a thread any more. */
  register(bytes: Uint8Array | ArrayBuffer): number {
    const buffer = bytes instanceof Uint8Array ? bytes.buffer : bytes;
    if (!(buffer instanceof ArrayBuffer)) throw new TypeError('only an ArrayBuffer can be registered');
    const offset = bytes instanceof Uint8Array ? bytes.byteOffset : 0;
    const number = this.#native.register(buffer, offset, bytes.byteLength);
    markAsUntransferable(buffer);
    return number;
  }

  /** Records that name it are dropped when their turn comes. */
  unregister(buffer: number): void {
    this.#native.unregister(buffer);
  }

  /** How frames look in memory, and what may be left to whom; nothing special before the first call. */
  configure(format: FrameFormat): void {
    const { header = false, mergeable = false, hostOffloads = 0, guestOffloads = 0 } = format;
    this.#native.configure(header, mergeable, hostOffloads, guestOffloads);
  }

  /**
   * Whether frames of a stream that go to a loopback address, or to none, are refused (127.0.0.0/8, 0.0.0.0/8, ::/16
   * with the mapped IPv4 addresses): for a peer that connects to whatever address a guest names. Default false.
   */
  refuseLoopback(refuse: boolean): void {
    this.#native.refuseLoopback(refuse);
  }

  /**
   * Connects it to a descriptor, which it closes at {@link shut}.
   * @param kind a tap, or a unix stream socket on which each frame follows its length in 4 bytes, big-endian
   * @param header whether frames begin with an offload header there too; those of a tap do
   * @throws KvmError where the descriptor is none
   */
  open(fd: number, kind: 'stream' | 'tap', header: boolean): void {
    this.#native.open(fd, kind, header);
    this.#generation++;
    this.#told = false;
    this.#staging = undefined;
  }

  /** Closes the descriptor, with what waits there. May be called again. */
  shut(): void {
    this.#generation++;
    this.#native.shut();
    this.#wasBlocked = false;
    this.#staging = undefined;
  }

  /** Whether `readable` is to be called: not while there is no buffer, or it would be without end. */
  listen(wanted: boolean): void {
    this.#native.listen(wanted);
  }

  /**
   * Sends what is in {@link tx}; returns how many of its records are over (sent, or dropped), for the caller to shift
   * out. Less than there are where the host takes no more; `writable` follows then.
   */
  send(): number {
    const { first, count } = this.tx;
    const done = this.#native.send(first, count);
    this.#look();
    return done;
  }

  /**
   * Receives into the buffers of {@link rx}; returns how many of them are full, for the caller to shift out. Then
   * {@link received} tells why no more.
   */
  receive(): number {
    const { first, count } = this.rx;
    const done = this.#native.receive(first, count);
    this.#look();
    return done;
  }

  /** Why the last {@link receive} or {@link fetch} gave no more. */
  get received(): Received {
    return this.#status[0] as Received;
  }

  /**
   * Reads frames of a stream without buffers for them, and returns how many there are: they lie in {@link staging} at
   * {@link offset} until they are consumed, or the next call moves them. The filter and the format do not count here.
   */
  fetch(): number {
    const count = this.#native.fetch();
    this.#look();
    return count;
  }

  /** Where {@link fetch} reads to; another one after each {@link open}. Undefined where nothing is open, or a tap. */
  get staging(): Uint8Array | undefined {
    if (this.#staging === undefined) {
      const memory = this.#native.staging();
      this.#staging = memory && new Uint8Array(memory);
    }
    return this.#staging;
  }

  /** Where the frame `index` of the last {@link fetch} begins. */
  offset(index: number): number {
    return this.#spans[2 * index]!;
  }

  /** In bytes. */
  length(index: number): number {
    return this.#spans[2 * index + 1]!;
  }

  /** The first `count` frames of the last {@link fetch} are done with: once, with no other call in between. */
  consume(count: number): void {
    this.#native.consume(count);
  }

  /** Frames that have come, and were not received, are forgotten. */
  forget(): void {
    this.#native.forget();
  }

  #look(): void {
    if ((this.#status[1] !== 0) !== this.#wasBlocked) {
      this.#wasBlocked = !this.#wasBlocked;
      this.onBlocked?.(this.#wasBlocked);
    }
    if (this.#status[2] === 0 || this.#told) return;
    const code = this.#status[3]!;
    if (code === 0) this.#ended({ kind: 'closed' });
    else this.#ended(code < 0 ? { kind: 'protocol' } : { kind: 'error', errno: code });
  }

  /** Not from within a call: whoever sends goes on as if all were well. */
  #ended(end: FrameEnd): void {
    if (this.#told) return;
    this.#told = true;
    const generation = this.#generation;
    queueMicrotask(() => {
      if (generation === this.#generation) this.onEnd?.(end);
    });
  }
}
