/** Both ends of connections of the socket device, and what each must have heard of the other. */
import type { GuestSockets, GuestStream, HostStream, VsockBackend } from '../../src/devices/vsock/backend.ts';
import { Connection } from '../../src/devices/vsock/connection.ts';
import type { Random } from './random.ts';

/** A program of the host, which breaks no rule and checks that the device breaks none. */
export class ProgramModel implements HostStream {
  guest: GuestStream | undefined;
  /** all that it has got, and how much of that it has taken */
  received: Uint8Array = new Uint8Array(0);
  taken = 0;
  /** all that it has sent */
  sent: Uint8Array = new Uint8Array(0);
  connecting: boolean;
  asked = false;
  ended = false;
  /** the device has said that no more is written */
  heardEnd = false;
  /** the device has closed it, or it has closed itself */
  gone: 'closed' | 'destroyed' | 'left' | undefined;
  port: number | undefined;
  readonly #random: Random;

  constructor(random: Random, connecting: boolean) {
    this.#random = random;
    this.connecting = connecting;
  }

  get isWriting(): boolean {
    return this.taken < this.received.length;
  }

  accepted(hostPort: number): void {
    this.#alive('accepted');
    if (this.port !== undefined || this.received.length > 0) throw new Error('accepted late');
    this.port = hostPort;
  }

  write(bytes: Uint8Array): void {
    this.#alive('written to');
    if (this.connecting || this.isWriting || this.heardEnd) throw new Error('a write that may not be');
    if (bytes.length === 0 || bytes.length > 65536) throw new Error(`a piece of ${bytes.length} bytes`);
    this.received = Buffer.concat([this.received, bytes]);
  }

  end(): void {
    this.#alive('ended');
    if (this.heardEnd || this.isWriting) throw new Error('an end that may not be');
    this.heardEnd = true;
  }

  more(): void {
    this.#alive('asked');
    if (this.asked || this.ended || this.connecting) throw new Error('asked when it may not be');
    this.asked = true;
  }

  close(): void {
    this.#alive('closed');
    if (this.isWriting) throw new Error('closed in the middle of a piece');
    this.gone = 'closed';
  }

  destroy(): void {
    this.#alive('destroyed');
    this.gone = 'destroyed';
  }

  /** One thing that it does. */
  act(): void {
    const random = this.#random;
    if (this.gone !== undefined || this.guest === undefined) return;
    if (this.connecting) {
      if (random.oneIn(3)) this.leave();
      else if (random.oneIn(2)) this.answer();
      return;
    }
    if (random.oneIn(16)) this.leave();
    else if (random.oneIn(2)) this.take();
    else if (random.oneIn(8)) this.finish();
    else this.send();
  }

  answer(): void {
    this.connecting = false;
    this.guest?.connected();
  }

  take(): void {
    if (!this.isWriting) return;
    this.taken = this.received.length;
    this.guest?.written();
  }

  send(): void {
    if (!this.asked) return;
    const bytes = this.#random.fill(new Uint8Array(this.#random.between(1, 600)));
    this.asked = false;
    this.sent = Buffer.concat([this.sent, bytes]);
    this.guest?.data(bytes);
  }

  finish(): void {
    if (!this.asked) return;
    this.asked = false;
    this.ended = true;
    this.guest?.ended();
  }

  leave(): void {
    this.gone = 'left';
    this.guest?.closed(!this.ended);
  }

  #alive(what: string): void {
    if (this.gone !== undefined) throw new Error(`${what} after it was ${this.gone}`);
  }
}

/** The host: programs behind its ports, some of which nobody listens on. */
export class HostModel implements VsockBackend {
  sockets: GuestSockets | undefined;
  programs: ProgramModel[] = [];
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  attach(guest: GuestSockets | undefined): void {
    this.sockets = guest;
  }

  connect(_port: number, guest: GuestStream): HostStream | undefined {
    if (this.#random.oneIn(8)) return undefined;
    const program = new ProgramModel(this.#random, true);
    program.guest = guest;
    this.programs.push(program);
    return program;
  }

  /** A program connects to the guest. */
  open(guestPort: number): void {
    const program = new ProgramModel(this.#random, false);
    const guest = this.sockets?.open(guestPort, program);
    if (guest === undefined) return;
    program.guest = guest;
    this.programs.push(program);
  }

  /** The program at the host's end of a connection: the last one that has had these ports. */
  find(hostPort: number, guestPort: number): ProgramModel | undefined {
    return this.programs.findLast(
      ({ guest }) =>
        guest instanceof Connection && guest.hostPort === hostPort && guest.guestPort === guestPort,
    );
  }
}

/** A socket of the guest, as its driver knows it. */
export class SocketModel {
  readonly guestPort: number;
  readonly hostPort: number;
  readonly program: ProgramModel | undefined;
  state: 'asked' | 'open' | 'over';
  readonly bufferSize: number;
  /** what it has taken out of its room, and what it has said of that */
  forwarded = 0;
  told = 0;
  received = 0;
  sent: Uint8Array = new Uint8Array(0);
  /** the device's room, and what it has said to have taken */
  room = 0;
  hostForwarded = 0;
  /** flags of SHUTDOWNs that it has sent, and heard */
  shutdown = 0;
  heardShutdown = 0;
  /** it has done what it must not do: nothing but the bytes that arrive is checked any more */
  spoiled = false;

  constructor(guestPort: number, hostPort: number, bufferSize: number, program?: ProgramModel) {
    this.guestPort = guestPort;
    this.hostPort = hostPort;
    this.bufferSize = bufferSize;
    this.program = program;
    this.state = 'asked';
  }

  get credit(): number {
    return Math.max(0, this.room - (this.sent.length - this.hostForwarded));
  }

  /** Checks a packet's account of the device's room. */
  hearCredit(bufferSize: number, forwarded: number, program: ProgramModel | undefined): void {
    if (forwarded < this.hostForwarded) throw new Error('the device has taken less than before');
    if (program !== undefined && forwarded > program.taken) throw new Error('taken before the program has');
    this.room = bufferSize;
    this.hostForwarded = forwarded;
  }

  /** Checks data of the host's. */
  hearData(bytes: Uint8Array, program: ProgramModel | undefined): void {
    if (bytes.length === 0) throw new Error('a data packet without data');
    if (!this.spoiled && this.received - this.forwarded + bytes.length > this.bufferSize)
      throw new Error('more than there is room for');
    const expected = program?.sent.subarray(this.received, this.received + bytes.length) ?? new Uint8Array(0);
    if (Buffer.compare(bytes, expected) !== 0) throw new Error('other data than the program has sent');
    this.received += bytes.length;
  }
}
