/**
 * What goes over a connection that was upgraded for one command in the guest: frames of a type, a length of 32 bits
 * (big-endian) and so many bytes.
 */
export const FRAME = {
  /** to the VM's process: standard input; without bytes its end */
  stdin: 0,
  stdout: 1,
  stderr: 2,
  /** the last one: how the command has ended, as JSON */
  result: 3,
  /** the first one: what is to be run, as JSON */
  request: 4,
} as const;
export type FrameType = (typeof FRAME)[keyof typeof FRAME];

export const STREAM_PATH = '/v1/agent/stream';
export const STREAM_PROTOCOL = 'tsvm-exec';

const HEAD = 5;
export const FRAME_LIMIT = 256 * 1024;

export function encodeFrame(type: FrameType, bytes: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEAD + bytes.length);
  frame[0] = type;
  frame.writeUInt32BE(bytes.length, 1);
  frame.set(bytes, HEAD);
  return frame;
}

/** Puts frames together, however they are cut. */
export class FrameDecoder {
  #bytes: Buffer = Buffer.alloc(0);

  /** @throws RangeError for a type that is none, or a frame beyond the limit */
  *feed(bytes: Buffer): Generator<{ readonly type: FrameType; readonly bytes: Buffer }> {
    this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes]);
    while (this.#bytes.length >= HEAD) {
      const type = this.#bytes[0]!;
      const length = this.#bytes.readUInt32BE(1);
      if (!isType(type) || length > FRAME_LIMIT)
        throw new RangeError(`no frame: type ${type}, ${length} bytes`);
      if (this.#bytes.length < HEAD + length) return;
      const content = this.#bytes.subarray(HEAD, HEAD + length);
      this.#bytes = this.#bytes.subarray(HEAD + length);
      yield { type, bytes: content };
    }
  }
}

function isType(type: number): type is FrameType {
  return type <= FRAME.request;
}
