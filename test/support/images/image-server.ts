import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

/** What a server does besides what it should. */
export type Fault =
  /** cuts the connection after so many bytes of the body */
  | { readonly kind: 'cut'; readonly after: number }
  /** sends so many bytes, and then nothing */
  | { readonly kind: 'stall'; readonly after: number }
  | { readonly kind: 'status'; readonly status: number; readonly headers?: Record<string, string> }
  /** takes no notice of ranges */
  | { readonly kind: 'whole' }
  /** sends so many bytes, and the rest when it is told to */
  | { readonly kind: 'hold'; readonly after: number; readonly until: Promise<void> };

/** PEM */
export type TlsIdentity = { readonly key: string; readonly cert: string };

export type SeenRequest = {
  readonly path: string;
  readonly range: string | undefined;
  readonly ifRange: string | undefined;
};

/**
 * A web server with files in memory, as distributors have them: ranges, entity tags, dates. Faults are for the next
 * requests of a path, one each.
 */
export class ImageServer {
  readonly requests: SeenRequest[] = [];
  readonly #files = new Map<string, Buffer>();
  readonly #faults = new Map<string, Fault[]>();
  readonly #redirects = new Map<string, string>();
  readonly #server: Server;

  readonly #scheme: string;

  constructor(tls?: TlsIdentity) {
    const listener = (request: IncomingMessage, response: ServerResponse): void =>
      this.#answer(request, response);
    this.#scheme = tls === undefined ? 'http' : 'https';
    this.#server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
  }

  /** @param tls for https; default: http */
  static async start(tls?: TlsIdentity): Promise<ImageServer> {
    const server = new ImageServer(tls);
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get address(): string {
    return `${this.#scheme}://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Requests for a path, in their order. */
  of(path: string): SeenRequest[] {
    return this.requests.filter((request) => request.path === path);
  }

  put(path: string, content: Buffer | string): void {
    this.#files.set(path, Buffer.from(content));
  }

  redirect(path: string, to: string): void {
    this.#redirects.set(path, to);
  }

  fail(path: string, ...faults: Fault[]): void {
    this.#faults.set(path, faults);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? '/';
    const { range, 'if-range': ifRange } = request.headers;
    this.requests.push({ path, range, ifRange: typeof ifRange === 'string' ? ifRange : undefined });
    response.on('error', () => undefined);
    const fault = this.#faults.get(path)?.shift();
    if (fault?.kind === 'status') {
      response.writeHead(fault.status, fault.headers).end('no');
      return;
    }
    const target = this.#redirects.get(path);
    if (target !== undefined) {
      response.writeHead(302, { location: target }).end('over there');
      return;
    }
    const file = this.#files.get(path);
    if (file === undefined) {
      response.writeHead(404).end('not found');
      return;
    }
    const etag = `"${createHash('sha256').update(file).digest('hex').slice(0, 16)}"`;
    const wanted = fault?.kind === 'whole' ? undefined : /^bytes=(\d+)-$/.exec(range ?? '')?.[1];
    const isSame = ifRange === undefined || ifRange === etag;
    const start = wanted !== undefined && isSame ? Number(wanted) : 0;
    const headers = { etag, 'accept-ranges': 'bytes', 'content-type': 'application/octet-stream' };
    if (start > 0 && start >= file.length) {
      response.writeHead(416, { ...headers, 'content-range': `bytes */${file.length}` }).end();
      return;
    }
    const body = file.subarray(start);
    response.writeHead(start > 0 ? 206 : 200, {
      ...headers,
      'content-length': body.length,
      ...(start > 0 && { 'content-range': `bytes ${start}-${file.length - 1}/${file.length}` }),
    });
    if (fault === undefined || !('after' in fault)) {
      response.end(body);
      return;
    }
    response.write(body.subarray(0, fault.after), () => {
      if (fault.kind === 'cut') response.destroy();
      if (fault.kind === 'hold') void fault.until.then(() => response.end(body.subarray(fault.after)));
    });
  }
}

export const sha = (algorithm: 'sha256' | 'sha512', content: Buffer | string): string =>
  createHash(algorithm).update(content).digest('hex');
