import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, connect, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export type Request = { readonly execute: string; readonly arguments: Readonly<Record<string, unknown>> };
export type Answer = (request: Request, say: (text: string | Uint8Array) => void) => void;

/** The other end of a stream, with the manners of an agent that is broken or means harm. */
export class Peer {
  readonly requests: Request[] = [];
  readonly stream: Socket;
  readonly #far: Socket;
  readonly #server: Server;
  readonly #directory: string;

  /** @param answer says what comes of each request but syncs, which are answered rightly unless it takes them too */
  static async open(answer: Answer, options: { readonly syncs?: boolean } = {}): Promise<Peer> {
    const directory = mkdtempSync(join(tmpdir(), 'tsvm-peer-'));
    const server = createServer();
    server.listen(join(directory, 's'));
    await once(server, 'listening');
    const near = connect(join(directory, 's'));
    const [far] = (await once(server, 'connection')) as [Socket];
    return new Peer(directory, server, near, far, answer, options.syncs ?? false);
  }

  private constructor(
    directory: string,
    server: Server,
    near: Socket,
    far: Socket,
    answer: Answer,
    takesSyncs: boolean,
  ) {
    this.#directory = directory;
    this.#server = server;
    this.#far = far;
    this.stream = near;
    let begun = '';
    far.on('error', () => undefined);
    far.on('data', (bytes: Buffer) => {
      const lines = (begun + bytes.toString('latin1').replaceAll('\xff', '')).split('\n');
      begun = lines.pop()!;
      for (const line of lines) {
        const request = JSON.parse(line) as Request;
        this.requests.push(request);
        if (request.execute === 'guest-sync-delimited' && !takesSyncs) this.sync(request);
        else answer(request, (text) => this.say(text));
      }
    });
  }

  say(text: string | Uint8Array): void {
    this.#far.write(text);
  }

  sync(request: Request): void {
    this.say(Buffer.from(`\xff${JSON.stringify({ return: request.arguments['id'] })}\n`, 'latin1'));
  }

  hangUp(): void {
    this.#far.destroy();
  }

  close(): void {
    this.stream.destroy();
    this.#far.destroy();
    this.#server.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
