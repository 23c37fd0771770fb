import type { ConsoleDevice } from '../../../../src/devices/console/device.ts';
import type { GuestEnd, PortBackend } from '../../../../src/devices/console/port.ts';
import type { Placed } from '../../../support/virtio/driver-queue.ts';
import { FakeMachine } from '../../../support/virtio/machine.ts';
import { FEATURE, Rig, type Negotiation } from '../../../support/virtio/rig.ts';

/** A host's end that remembers, and takes as much as it is told to. */
export class Host implements PortBackend {
  guest: GuestEnd | undefined;
  /** what the guest has sent, in the pieces it came in */
  readonly pieces: Uint8Array[] = [];
  /** what the guest's end was told to be */
  readonly opened: boolean[] = [];
  /** pieces it takes before it wants no more */
  room = Infinity;

  connect(guest: GuestEnd | undefined): void {
    this.guest = guest;
  }

  output(bytes: Uint8Array): boolean {
    if (this.room <= 0) throw new Error('output to a backend that takes none');
    this.pieces.push(bytes);
    return --this.room > 0;
  }

  guestOpened(open: boolean): void {
    this.opened.push(open);
  }

  get text(): string {
    return Buffer.concat(this.pieces).toString();
  }

  get length(): number {
    return this.pieces.reduce((sum, { length }) => sum + length, 0);
  }

  takeMore(pieces = Infinity): void {
    this.room = pieces;
    this.guest?.resumeOutput();
  }
}

export type Message = { port: number; event: number; value: number; rest: Uint8Array };

/** A driver of the console behind a transport. */
export class ConsoleRig extends Rig {
  constructor(
    device: ConsoleDevice,
    transport: 'mmio' | 'pci' = 'pci',
    machine = new FakeMachine('one window'),
  ) {
    super(device, { transport, memory: 'one window' }, machine);
  }

  /** With buffers for control messages, and everything that the device says on DEVICE_READY taken. */
  async startMultiport(options: Negotiation & { buffers?: number } = {}): Promise<void> {
    this.start({ bits: [FEATURE.eventIdx], ...options });
    this.giveControlBuffers(options.buffers ?? 8);
    await this.control(0xffff_ffff, 0, 1);
  }

  giveControlBuffers(count: number, size = 72): void {
    for (let i = 0; i < count; i++) this.queue(2).chain(this.queue(2).place([{ room: size }]));
    this.queue(2).publish();
    this.driver.notify(2);
    this.machine.settle();
  }

  /** Gives `count` buffers for input of a port. */
  giveBuffers(port: number, count: number, size = 64): void {
    const queue = this.receiveQueue(port);
    for (let i = 0; i < count; i++) queue.chain(queue.place([{ room: size }]));
    queue.publish();
    this.driver.notify(queue.index);
    this.machine.settle();
  }

  receiveQueue(port: number) {
    return this.queue(port === 0 ? 0 : 2 * port + 2);
  }

  transmitQueue(port: number) {
    return this.queue(port === 0 ? 1 : 2 * port + 3);
  }

  /** Sends a control message, and waits until the device has it. */
  async control(port: number, event: number, value: number): Promise<void> {
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, port, true);
    view.setUint16(4, event, true);
    view.setUint16(6, value, true);
    await this.ask(this.queue(3), [{ bytes }]);
    this.machine.settle();
  }

  /** The control messages that have come since, in order; their buffers are given again. */
  messages(): Message[] {
    const queue = this.queue(2);
    this.machine.settle();
    const messages: Message[] = [];
    for (let used = queue.collect(); used.length > 0; used = queue.collect()) {
      for (const { written, buffers } of used) {
        const bytes = queue.reply(buffers).subarray(0, written);
        if (written > 0) {
          const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
          messages.push({
            port: view.getUint32(0, true),
            event: view.getUint16(4, true),
            value: view.getUint16(6, true),
            rest: bytes.slice(8),
          });
        }
        queue.chain(buffers);
      }
      queue.publish();
      this.driver.notify(2);
      this.machine.settle();
    }
    return messages;
  }

  /** Sends output without waiting for it to be taken. */
  write(port: number, ...texts: readonly (string | Uint8Array)[]): void {
    const queue = this.transmitQueue(port);
    for (const text of texts) {
      const bytes = typeof text === 'string' ? new TextEncoder().encode(text) : text;
      queue.chain(queue.place([{ bytes }]));
    }
    queue.publish();
    this.driver.notify(queue.index);
    this.machine.settle();
  }

  /** Makes a buffer of output that is in place already available, once more. */
  writeFrom(port: number, buffer: Placed): void {
    const queue = this.transmitQueue(port);
    queue.chain([buffer]);
    queue.publish();
    this.driver.notify(queue.index);
    this.machine.settle();
  }

  /** What has come in a port's receive queue since; gives the buffers again where asked to. */
  read(port: number, options: { giveAgain?: boolean } = {}): string {
    this.machine.settle();
    const queue = this.receiveQueue(port);
    const pieces: Buffer[] = [];
    for (const { buffers, written } of queue.collect()) {
      pieces.push(Buffer.from(queue.reply(buffers).subarray(0, written)));
      if (options.giveAgain === true) queue.chain(buffers);
    }
    if (options.giveAgain === true && pieces.length > 0) {
      queue.publish();
      this.driver.notify(queue.index);
      this.machine.settle();
    }
    return Buffer.concat(pieces).toString();
  }
}
