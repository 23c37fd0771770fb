import type {
  GuestSockets,
  GuestStream,
  HostStream,
  VsockBackend,
} from '../../../../src/devices/vsock/backend.ts';
import type { VsockDevice } from '../../../../src/devices/vsock/device.ts';
import { FakeMachine } from '../../../support/virtio/machine.ts';
import { Rig, type Negotiation } from '../../../support/virtio/rig.ts';
import { decode, encode, HEADER, HOST, OP, STREAM, type Packet } from '../../../support/virtio/vsock.ts';

export const CID = 7;
export const ROOM = 64 * 1024;

/** A program of the host that does what a test tells it, and remembers what it was told. */
export class Program implements HostStream {
  guest: GuestStream | undefined;
  /** the host's port of a connection that the guest has accepted */
  port: number | undefined;
  readonly received: Uint8Array[] = [];
  /** `end`, `close` and `destroy`, as they were called */
  readonly told: string[] = [];
  /** takes what it is given at once */
  reads = true;
  /** a piece is being written */
  writing = false;
  /** a piece was asked for */
  asked = false;
  readonly #later: (callback: () => void) => void;
  readonly #toSend: Uint8Array[] = [];
  #ends = false;

  constructor(later: (callback: () => void) => void) {
    this.#later = later;
  }

  get text(): string {
    return Buffer.concat(this.received).toString();
  }

  get isGone(): boolean {
    return this.told.includes('close') || this.told.includes('destroy');
  }

  accepted(hostPort: number): void {
    this.port = hostPort;
  }

  write(bytes: Uint8Array): void {
    if (this.writing) throw new Error('two pieces at a time');
    if (this.told.length > 0) throw new Error(`a piece after ${this.told.join()}`);
    this.received.push(bytes);
    this.writing = true;
    if (this.reads) this.#later(() => this.take());
  }

  end(): void {
    this.told.push('end');
  }

  more(): void {
    if (this.asked) throw new Error('asked twice');
    this.asked = true;
    this.#pass();
  }

  close(): void {
    this.told.push('close');
  }

  destroy(): void {
    this.told.push('destroy');
  }

  /** The piece that is being written is on its way. */
  take(): void {
    if (!this.writing || this.told.includes('destroy')) return;
    this.writing = false;
    this.guest?.written();
  }

  /** Reads all there is from now on. */
  goOn(): void {
    this.reads = true;
    this.take();
  }

  send(...pieces: readonly (string | Uint8Array)[]): void {
    this.#toSend.push(
      ...pieces.map((piece) => (typeof piece === 'string' ? new TextEncoder().encode(piece) : piece)),
    );
    this.#pass();
  }

  finish(): void {
    this.#ends = true;
    this.#pass();
  }

  #pass(): void {
    if (!this.asked || (this.#toSend.length === 0 && !this.#ends)) return;
    this.asked = false;
    this.#later(() => {
      if (this.isGone) return;
      const piece = this.#toSend.shift();
      if (piece !== undefined) this.guest?.data(piece);
      else this.guest?.ended();
    });
  }
}

/** A host with a program behind some of its ports. */
export class FakeHost implements VsockBackend {
  sockets: GuestSockets | undefined;
  /** ports that nobody listens on: refused later, and at once */
  readonly refusing = new Set<number>();
  readonly closed = new Set<number>();
  /** programs take what they are given */
  reads = true;
  /** answers to connections are put off until then */
  waits = false;
  readonly programs: Program[] = [];
  later: (callback: () => void) => void = (callback) => callback();

  attach(guest: GuestSockets | undefined): void {
    this.sockets = guest;
  }

  connect(port: number, guest: GuestStream): HostStream | undefined {
    if (this.closed.has(port)) return undefined;
    const program = this.#program();
    program.guest = guest;
    if (this.refusing.has(port)) this.later(() => guest.closed(true));
    else if (!this.waits) this.later(() => guest.connected());
    return program;
  }

  /** A program of the host's connects to the guest; undefined where that is refused. */
  open(port: number): Program | undefined {
    const program = this.#program();
    program.guest = this.sockets?.open(port, program);
    return program.guest === undefined ? undefined : program;
  }

  get last(): Program {
    return this.programs.at(-1)!;
  }

  #program(): Program {
    const program = new Program((callback) => this.later(callback));
    program.reads = this.reads;
    this.programs.push(program);
    return program;
  }
}

/** A driver of the socket device behind a transport, which keeps credit for one connection at a time. */
export class VsockRig extends Rig {
  readonly host: FakeHost;
  /** what the device was last told of our room */
  bufferSize = ROOM;
  forwarded = 0;
  /** where packets of the driver lie, one at a time */
  #outbox = 0;

  constructor(device: VsockDevice, host: FakeHost, transport: 'mmio' | 'pci' = 'pci') {
    super(device, { transport, memory: 'one window' }, new FakeMachine('one window'));
    this.host = host;
    host.later = this.machine.defer;
  }

  /** With receive buffers. */
  begin(options: Negotiation & { buffers?: number; size?: number } = {}): void {
    this.start(options);
    this.#outbox = this.buffers.take(HEADER + ROOM);
    this.give(options.buffers ?? 12, options.size ?? 4096);
  }

  give(count: number, size = 4096, index = 0): void {
    const queue = this.queue(index);
    for (let i = 0; i < count; i++) queue.chain(queue.place([{ room: size }]));
    queue.publish();
    this.driver.notify(index);
    this.machine.settle();
  }

  packet(op: number, fields: Partial<Packet> = {}): Uint8Array {
    const payload = fields.payload ?? new Uint8Array(0);
    return encode(
      {
        ...{ sourceCid: CID, targetCid: HOST, sourcePort: 1000, targetPort: 52, type: STREAM, flags: 0 },
        ...{ length: payload.length, bufferSize: this.bufferSize, forwarded: this.forwarded, op },
        ...fields,
      },
      payload,
    );
  }

  /** Sends a packet and waits until the device has taken it. */
  sends(op: number, fields: Partial<Packet> = {}): void {
    this.sendsBytes(this.packet(op, fields));
  }

  sendsBytes(bytes: Uint8Array): void {
    const queue = this.queue(1);
    this.machine.memory.write(this.#outbox, bytes);
    queue.chain([{ address: this.#outbox, length: bytes.length, writable: false }]);
    queue.publish();
    this.driver.notify(1);
    this.machine.settle();
    queue.collect();
  }

  /** What the device has sent since; its buffers are given again. */
  hears(options: { giveAgain?: boolean } = {}): Packet[] {
    this.machine.settle();
    const queue = this.queue(0);
    const packets: Packet[] = [];
    for (let used = queue.collect(); used.length > 0; used = queue.collect()) {
      for (const { written, buffers } of used) {
        if (written > 0) packets.push(decode(queue.reply(buffers).subarray(0, written)));
        if (options.giveAgain !== false) queue.chain(buffers);
      }
      queue.publish();
      this.driver.notify(0);
      this.machine.settle();
    }
    return packets;
  }

  /** Operations of the packets that have come since. */
  ops(): number[] {
    return this.hears().map(({ op }) => op);
  }

  /** A connection from the guest, accepted. */
  connects(port = 52, sourcePort = 1000): Program {
    this.sends(OP.request, { targetPort: port, sourcePort });
    const [answer] = this.hears();
    if (answer?.op !== OP.response) throw new Error(`answered by ${answer?.op ?? 'nothing'}`);
    return this.host.last;
  }

  /** A connection from the host, accepted; the guest's port is 80. */
  accepts(): { program: Program; hostPort: number } {
    const program = this.host.open(80)!;
    const [request] = this.hears();
    if (request?.op !== OP.request) throw new Error(`${request?.op ?? 'nothing'} instead of a request`);
    this.sends(OP.response, { sourcePort: 80, targetPort: request.sourcePort });
    return { program, hostPort: request.sourcePort };
  }
}

export { HEADER, HOST, OP, STREAM, type Packet };
