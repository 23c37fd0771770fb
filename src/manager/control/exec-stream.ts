import { PassThrough, Writable, type Duplex } from 'node:stream';
import * as v from 'valibot';
import { ControlError } from './errors.ts';
import { encodeFrame, FRAME, FRAME_LIMIT, FrameDecoder } from './frames.ts';
import { streamResult } from './types.ts';

export type ExecEnd = {
  /** undefined where a signal has ended it */
  readonly exitCode: number | undefined;
  readonly signal: number | undefined;
};

/** A command that runs in a VM, with its standard streams. */
export class ExecStream {
  readonly stdin: Writable;
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  /** resolves when the command has ended and all output is here; rejects with ControlError */
  readonly ended: Promise<ExecEnd>;
  readonly #socket: Duplex;

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
        this.stdout.end();
        this.stderr.end();
        this.stdin.destroy();
        reject(new ControlError('ECONTROL', 'the VM has ended, and the command with it'));
      });
      if (head.length > 0) take(head);
    });
    // Whoever does not wait for it must not be brought down by it.
    this.ended.catch(() => undefined);
  }

  /** Ends the connection, and the command with it. */
  destroy(): void {
    this.#socket.destroy();
  }

  #take(type: number, bytes: Buffer, resolve: (end: ExecEnd) => void, reject: (error: Error) => void): void {
    if (type === FRAME.stdout || type === FRAME.stderr) {
      const stream = type === FRAME.stdout ? this.stdout : this.stderr;
      if (stream.write(Buffer.from(bytes))) return;
      this.#socket.pause();
      stream.once('drain', () => this.#socket.resume());
      return;
    }
    if (type !== FRAME.result) throw new RangeError(`a frame of type ${type}`);
    const result = v.parse(v.pipe(v.string(), v.parseJson(), streamResult), bytes.toString('utf8'));
    if ('error' in result) {
      const { code, message, hint } = result.error;
      reject(new ControlError(code, message, hint));
    } else resolve({ exitCode: result.exitCode ?? undefined, signal: result.signal ?? undefined });
    this.stdout.end();
    this.stderr.end();
  }
}
