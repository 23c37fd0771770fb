import { Readable, Writable, type Duplex } from 'node:stream';
import * as v from 'valibot';
import { ControlError } from './errors.ts';
import { encodeFrame, FRAME, FRAME_LIMIT, FrameDecoder } from './frames.ts';
import { streamResult } from './types.ts';

export type ExecEnd = {
  /** undefined where a signal has ended it */
  readonly exitCode: number | undefined;
  readonly signal: number | undefined;
};

/** A piece of what a command says. */
export type ExecChunk = { readonly stream: 'stdout' | 'stderr'; readonly bytes: Buffer };

/** Pieces of output, of at most {@link FRAME_LIMIT} bytes each, that wait for a slow reader. */
const WAITING = 8;

/** A command that runs in a VM, with its standard streams. Whoever does not read its output keeps it waiting. */
export class ExecStream implements AsyncIterable<ExecChunk> {
  readonly stdin: Writable;
  /** resolves when the command has ended and all output has come; rejects with ControlError */
  readonly ended: Promise<ExecEnd>;
  readonly #socket: Duplex;
  readonly #output: Readable;

  constructor(socket: Duplex, head: Buffer) {
    this.#socket = socket;
    this.stdin = new Writable({
      write: (bytes: Buffer, _, done) => {
        for (let at = 0; at < bytes.length; at += FRAME_LIMIT)
          socket.write(encodeFrame(FRAME.stdin, bytes.subarray(at, at + FRAME_LIMIT)));
        if (socket.writableNeedDrain) socket.once('drain', done);
        else done();
      },
      final: (done) => {
        socket.write(encodeFrame(FRAME.stdin, Buffer.alloc(0)));
        done();
      },
    });
    // A command may end before it has read all.
    this.stdin.on('error', () => undefined);
    this.#output = new Readable({
      objectMode: true,
      highWaterMark: WAITING,
      read: () => socket.resume(),
      // Who leaves the loop wants no more of the command.
      destroy: (error, done) => {
        socket.destroy();
        done(error);
      },
    });
    this.ended = new Promise((resolve, reject) => {
      const decoder = new FrameDecoder();
      const take = (bytes: Buffer): void => {
        try {
          for (const frame of decoder.feed(bytes)) this.#take(frame.type, frame.bytes, resolve, reject);
        } catch (error) {
          reject(
            new ControlError(
              'ECONTROL',
              "the VM's process sends what this version does not understand",
              undefined,
              { cause: error },
            ),
          );
          socket.destroy();
        }
      };
      socket.on('data', take);
      socket.on('error', () => undefined);
      socket.once('close', () => {
        this.#output.push(null);
        this.stdin.destroy();
        reject(new ControlError('ECONTROL', 'the VM has ended, and the command with it'));
      });
      if (head.length > 0) take(head);
    });
    // Whoever does not wait for it must not be brought down by it.
    this.ended.catch(() => undefined);
  }

  /** What it says, as it comes. Whoever leaves the loop ends the command. */
  [Symbol.asyncIterator](): AsyncIterator<ExecChunk> {
    return (this.#output as AsyncIterable<ExecChunk>)[Symbol.asyncIterator]();
  }

  /** Ends the connection, and the command with it. */
  destroy(): void {
    this.#socket.destroy();
  }

  #take(type: number, bytes: Buffer, resolve: (end: ExecEnd) => void, reject: (error: Error) => void): void {
    if (type === FRAME.stdout || type === FRAME.stderr) {
      // It is only seen whether this is still here.
      if (bytes.length === 0) return;
      const chunk: ExecChunk = {
        stream: type === FRAME.stdout ? 'stdout' : 'stderr',
        bytes: Buffer.from(bytes),
      };
      if (!this.#output.push(chunk)) this.#socket.pause();
      return;
    }
    if (type !== FRAME.result) throw new RangeError(`a frame of type ${type}`);
    const result = v.parse(v.pipe(v.string(), v.parseJson(), streamResult), bytes.toString('utf8'));
    if ('error' in result) {
      const { code, message, hint } = result.error;
      reject(new ControlError(code, message, hint));
    } else resolve({ exitCode: result.exitCode ?? undefined, signal: result.signal ?? undefined });
    this.#output.push(null);
  }
}
