/** Control messages of a console with several ports (VIRTIO 1.2, 5.3.6.2). */

export const EVENT = {
  /** driver: it is there, or has failed */
  deviceReady: 0,
  portAdd: 1,
  portRemove: 2,
  /** driver: a port is set up, or has failed */
  portReady: 3,
  consolePort: 4,
  resize: 5,
  /** both ways: somebody has opened or closed the sender's side */
  portOpen: 6,
  portName: 7,
} as const;

/** Bytes of a message without what follows it: id, event, value. */
export const CONTROL_SIZE = 8;

type ControlEvent = (typeof EVENT)[keyof typeof EVENT];
export type DeviceEvent = Exclude<ControlEvent, typeof EVENT.deviceReady | typeof EVENT.portReady>;

/** A message of the device. */
export type ControlMessage = { readonly port: number; readonly event: DeviceEvent; readonly value: number };

/** Messages of the device about one port that can wait at once: five kinds, and two of PORT_OPEN. */
export const MESSAGES_PER_PORT = 7;

/**
 * Messages that wait for the driver to give buffers. They tell of states, so a newer one of a kind takes the place
 * of an older one, and there are never more than {@link MESSAGES_PER_PORT} a port, whatever the guest and the host do.
 */
export class ControlOutbox {
  #messages: ControlMessage[] = [];

  get length(): number {
    return this.#messages.length;
  }

  /** The oldest message. */
  get first(): ControlMessage | undefined {
    return this.#messages[0];
  }

  post(port: number, event: DeviceEvent, value = 1): void {
    const message = { port, event, value };
    const same = this.#messages.filter((other) => other.port === port && other.event === event);
    if (event === EVENT.portOpen) {
      // Closed and opened again is two messages, or the guest would not see that its peer is another one. Opened
      // or closed once more on top of that takes the last step back.
      const last = same.at(-1);
      if (last?.value === value) return;
      if (last !== undefined && same.length === 2) this.#messages.splice(this.#messages.indexOf(last), 1);
      else this.#messages.push(message);
      return;
    }
    this.#messages = this.#messages.filter((other) => !same.includes(other));
    this.#messages.push(message);
  }

  /** Takes the oldest message away. */
  shift(): void {
    this.#messages.shift();
  }

  /** Forgets what there is about a port. */
  drop(port: number): void {
    this.#messages = this.#messages.filter((message) => message.port !== port);
  }

  clear(): void {
    this.#messages = [];
  }

  save(): ControlMessage[] {
    return this.#messages.map((message) => ({ ...message }));
  }

  restore(messages: readonly ControlMessage[]): void {
    this.#messages = messages.map((message) => ({ ...message }));
  }
}

/** The bytes of a message with what follows it. */
export function encodeControl({ port, event, value }: ControlMessage, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(CONTROL_SIZE + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, port, true);
  view.setUint16(4, event, true);
  view.setUint16(6, value, true);
  bytes.set(payload, CONTROL_SIZE);
  return bytes;
}

/**
 * What follows RESIZE: columns, then rows. Linux took them the other way round until 2025; its long-term kernels were
 * mended in January 2026.
 */
export function encodeSize(columns: number, rows: number): Uint8Array {
  return Uint8Array.of(columns, columns >>> 8, rows, rows >>> 8);
}
