import type { AgentChannel, AgentLimits } from './channel.ts';
import { AgentProtocolError } from './errors.ts';
import { fileRead, fileWritten, nothing } from './replies.ts';

/** Bytes in one request; all of it stays in the memory of the agent as base64. */
const PIECE = 1024 * 1024;

/** A file that the agent has open in the guest. */
export class AgentFile {
  readonly path: string;
  readonly #channel: AgentChannel;
  readonly #handle: number;
  readonly #limits: AgentLimits;

  constructor(channel: AgentChannel, path: string, handle: number, limits: AgentLimits) {
    this.#channel = channel;
    this.path = path;
    this.#handle = handle;
    this.#limits = limits;
  }

  /** Reads on from where it is; fewer than `count` bytes only at the end of the file, or from a special file. */
  async read(count = PIECE): Promise<{ readonly bytes: Buffer; readonly eof: boolean }> {
    const args = { handle: this.#handle, count: Math.min(count, PIECE) };
    const answer = await this.#channel.request('guest-file-read', args, fileRead, this.#limits);
    const bytes = Buffer.from(answer['buf-b64'], 'base64');
    if (bytes.length !== answer.count || bytes.length > args.count) {
      throw new AgentProtocolError(
        `the guest agent says that it has read ${answer.count} of ${args.count} bytes, and sends ${bytes.length}`,
      );
    }
    return { bytes, eof: answer.eof };
  }

  /** Writes all of `bytes` on from where it is. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const piece = bytes.subarray(at, at + PIECE);
      const args = { handle: this.#handle, 'buf-b64': Buffer.from(piece).toString('base64') };
      const { count } = await this.#channel.request('guest-file-write', args, fileWritten, this.#limits);
      if (count < 1 || count > piece.length) {
        throw new AgentProtocolError(
          `the guest agent says that it has written ${count} of ${piece.length} bytes to ${this.path}`,
        );
      }
      at += count;
    }
  }

  /** Closes it; what was written is the guest's to write to its disk. */
  async close(): Promise<void> {
    await this.#channel.request('guest-file-close', { handle: this.#handle }, nothing, this.#limits);
  }
}
