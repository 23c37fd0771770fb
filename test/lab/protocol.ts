/**
 * What goes over the control channel, in both directions: frames of a 9-byte header (payload length u32, type u8,
 * command u32, little-endian) and the payload. The same frames go between the host and the agent in level 1 (over a
 * virtio-serial port) and between the process that owns level 1 and its clients (over a Unix socket).
 */

export const FRAME = {
  /** agent: commands can be started; payload is empty, from the owner of level 1 a {@link ReadyReport} in JSON */
  ready: 1,
  /** host: start a command; payload is a {@link StartRequest} in JSON */
  start: 2,
  /** host: bytes for its standard input */
  stdin: 3,
  /** host: end of its standard input */
  stdinEnd: 4,
  /** host: kill it and what it started; no payload */
  kill: 5,
  /** agent: that many bytes (u32) of standard input were taken by the command */
  stdinTaken: 6,
  /** agent */
  stdout: 7,
  /** agent */
  stderr: 8,
  /** agent: it ended and all its output was sent; payload is an {@link ExitReport} in JSON */
  exit: 9,
  /** agent: it could not be started; payload says why. Owner of level 1, with command 0: level 1 is lost */
  failed: 10,
  /** client, with command 0: level 1 is to be stopped */
  stop: 11,
  /** client, with command 0: asks for the end of the console; owner: payload is that */
  console: 12,
  /** host, with command 0: nothing; its coming is an interrupt */
  nudge: 13,
} as const;

export type FrameType = (typeof FRAME)[keyof typeof FRAME];

export type StartRequest = {
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
};

export type ExitReport = {
  /** exit status, or 128 + the signal's number */
  readonly code: number;
};

export type ReadyReport = {
  /** directory that level 1 and the host both write */
  readonly shared: string;
};

export type Frame = { readonly type: number; readonly command: number; readonly payload: Buffer };

/** Standard input that may be under way to a command before it has taken it, in bytes. */
export const STDIN_WINDOW = 256 * 1024;

const HEADER_SIZE = 9;
const MAX_PAYLOAD = 16 * 1024 * 1024;

export function encodeFrame(type: FrameType, command: number, payload: Uint8Array | string = ''): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const frame = Buffer.allocUnsafe(HEADER_SIZE + body.length);
  frame.writeUInt32LE(body.length, 0);
  frame.writeUInt8(type, 4);
  frame.writeUInt32LE(command, 5);
  frame.set(body, HEADER_SIZE);
  return frame;
}

/** Cuts a stream of bytes into frames. */
export class FrameDecoder {
  #pending: Buffer = Buffer.alloc(0);

  /** @throws RangeError on a length that no frame has: the other side does not speak this protocol */
  push(bytes: Buffer): Frame[] {
    let rest = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes]);
    const frames: Frame[] = [];
    while (rest.length >= HEADER_SIZE) {
      const length = rest.readUInt32LE(0);
      if (length > MAX_PAYLOAD) throw new RangeError(`control channel: frame of ${length} bytes`);
      if (rest.length < HEADER_SIZE + length) break;
      const payload = rest.subarray(HEADER_SIZE, HEADER_SIZE + length);
      frames.push({ type: rest.readUInt8(4), command: rest.readUInt32LE(5), payload });
      rest = rest.subarray(HEADER_SIZE + length);
    }
    this.#pending = rest;
    return frames;
  }
}
