/** GET over HTTP: through proxies as the environment says, with redirects, and without waiting for ever. */
import { getProxyForUrl } from 'proxy-from-env';
import type Undici from 'undici';
import type { Dispatcher, ProxyAgent } from 'undici';

import { systemCode } from '../../kvm/system-code.ts';
import { ImageError } from './errors.ts';

export type HttpOptions = {
  /** headers of the request to this host: a redirect may lead to another one */
  readonly headers?: (host: string) => Record<string, string>;
  readonly signal?: AbortSignal;
  /**
   * Whether a redirect may lead from https to http: only where a checksum tells whether the right thing came.
   * Default false
   */
  readonly allowPlain?: boolean;
};

export type HttpResponse = {
  readonly status: number;
  /** by name in lower case; the first where there are several */
  readonly header: (name: string) => string | undefined;
  /** Rejects where it ends early. To be read or destroyed. */
  readonly body: Dispatcher.ResponseData['body'];
  /** after redirects */
  readonly url: URL;
};

const REDIRECTS = new Set([301, 302, 303, 307, 308]);
const REDIRECT_LIMIT = 10;
const CONNECT_TIMEOUT_MS = 20_000;
/** How long a server may say nothing. A slow one that goes on is waited for. */
const STALL_TIMEOUT_MS = 30_000;

export type HttpSettings = {
  /** milliseconds without a byte before a server is given up; default 30 s */
  readonly stallTimeout?: number;
};

/** Connections, kept for the next request until it is closed. */
export class HttpClient implements AsyncDisposable {
  readonly #agents = new Map<string, Dispatcher>();
  readonly #stallTimeout: number;

  constructor(settings: HttpSettings = {}) {
    this.#stallTimeout = settings.stallTimeout ?? STALL_TIMEOUT_MS;
  }

  /**
   * @returns the response whatever its status is, redirects aside
   * @throws ImageError (ENETWORK, EHTTP)
   */
  async get(address: string, options: HttpOptions = {}): Promise<HttpResponse> {
    const { headers, signal, allowPlain = false } = options;
    let url = webUrl(address);
    for (let hops = 0; hops <= REDIRECT_LIMIT; hops++) {
      const { statusCode, headers: received, body } = await this.#request(url, headers?.(url.host), signal);
      const header = (name: string): string | undefined => {
        const value = received[name];
        return typeof value === 'object' ? value[0] : value;
      };
      const location = header('location');
      if (!REDIRECTS.has(statusCode) || location === undefined)
        return { status: statusCode, header, body, url };
      discard(body);
      const next = webUrl(location, url);
      if (url.protocol === 'https:' && next.protocol === 'http:' && !allowPlain) {
        throw new ImageError('EHTTP', `${shown(url)} leads to ${shown(next)}, which is not protected`);
      }
      url = next;
    }
    throw new ImageError('EHTTP', `${shown(address)} leads from one address to the next without an end`);
  }

  /** Connections in use are cut. */
  async [Symbol.asyncDispose](): Promise<void> {
    const agents = [...this.#agents.values()];
    this.#agents.clear();
    await Promise.all(agents.map((agent) => agent.destroy()));
  }

  async #request(
    url: URL,
    headers: Record<string, string> | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Dispatcher.ResponseData> {
    // It is large, and most who come by here have what they want on this machine.
    const undici = (await import('undici')).default;
    try {
      return await undici.request(url, {
        method: 'GET',
        dispatcher: this.#agentFor(url, undici),
        // A file that is packed on the way has other checksums and ranges.
        headers: { 'accept-encoding': 'identity', 'user-agent': 'tsvm', ...headers },
        headersTimeout: this.#stallTimeout,
        bodyTimeout: this.#stallTimeout,
        ...(signal && { signal }),
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw networkError(url, error);
    }
  }

  #agentFor(url: URL, { Agent, ProxyAgent }: typeof Undici): Dispatcher {
    const proxy = getProxyForUrl(url.href);
    const known = this.#agents.get(proxy);
    if (known !== undefined) return known;
    const connect = { timeout: CONNECT_TIMEOUT_MS };
    const agent = proxy === '' ? new Agent({ connect }) : proxyAgent(ProxyAgent, proxy, connect);
    this.#agents.set(proxy, agent);
    return agent;
  }
}

function proxyAgent(
  Agent: typeof ProxyAgent,
  proxy: string,
  connect: { readonly timeout: number },
): Dispatcher {
  const uri = URL.canParse(proxy) ? proxy : `http://${proxy}`;
  try {
    // Many proxies let nobody tunnel but to port 443: http goes through them as a request.
    return new Agent({ uri, proxyTunnel: false, requestTls: connect, proxyTls: connect });
  } catch (error) {
    throw new ImageError('EINVAL', `the environment names a proxy that cannot be one: ${shown(uri)}`, {
      hint: 'set HTTPS_PROXY and HTTP_PROXY to addresses like http://proxy.example:3128',
      cause: error,
    });
  }
}

/** @throws ImageError where it is no address on the web */
export function webUrl(address: string, base?: URL): URL {
  if (!URL.canParse(address, base?.href))
    throw new ImageError('EINVAL', `not an address: ${address.slice(0, 200)}`);
  const url = new URL(address, base);
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw new ImageError('EINVAL', `not an address of http or https: ${shown(url)}`);
  return url;
}

/** An address for people and logs: without a password or what else there is to keep in it. */
export function shown(address: URL | string): string {
  if (typeof address === 'string' && !URL.canParse(address)) return '(no address)';
  const { protocol, host, pathname } = new URL(address);
  return `${protocol}//${host}${pathname}`;
}

/** The rest of a body that nobody wants. */
export function discard(body: Dispatcher.ResponseData['body']): void {
  body.on('error', () => undefined);
  body.destroy();
}

const REASONS: Readonly<Record<string, string>> = {
  ENOTFOUND: 'there is no such server',
  EAI_AGAIN: 'the name of the server cannot be looked up',
  ECONNREFUSED: 'the server takes no connections',
  ECONNRESET: 'the connection was cut',
  EPIPE: 'the connection was cut',
  ENETUNREACH: 'the network cannot be reached',
  EHOSTUNREACH: 'the server cannot be reached',
  ETIMEDOUT: 'the server does not answer',
  UND_ERR_CONNECT_TIMEOUT: 'the server does not answer',
  UND_ERR_HEADERS_TIMEOUT: 'the server does not answer any more',
  UND_ERR_BODY_TIMEOUT: 'the server sends nothing any more',
  UND_ERR_SOCKET: 'the connection was cut',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'the server sent less or more than it said',
  CERT_HAS_EXPIRED: 'the certificate of the server is out of date',
};

/** What went wrong on the way, in words. */
export function networkError(url: URL | string, error: unknown): ImageError {
  if (error instanceof ImageError) return error;
  const code = systemCode(error);
  const reason =
    (code === undefined ? undefined : REASONS[code]) ??
    (error instanceof Error ? error.message : String(error));
  return new ImageError('ENETWORK', `${shown(url)}: ${reason}`, {
    cause: error,
    hint: 'check the network; behind a proxy, set HTTPS_PROXY; a mirror can be named in config.ini',
  });
}

const TEXT_LIMIT = 4 * 2 ** 20;

/**
 * A small file, as a list of checksums is.
 * @throws ImageError (ENETWORK, EHTTP)
 */
export async function getText(client: HttpClient, address: string, signal?: AbortSignal): Promise<string> {
  const { status, body, url } = await client.get(address, signal === undefined ? {} : { signal });
  if (status !== 200) {
    discard(body);
    throw statusError(url, status);
  }
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > TEXT_LIMIT)
        throw new ImageError('EHTTP', `${shown(url)}: too large for a list of checksums`);
      chunks.push(chunk);
    }
  } catch (error) {
    discard(body);
    signal?.throwIfAborted();
    throw networkError(url, error);
  }
  return Buffer.concat(chunks).toString('utf8');
}

export function statusError(url: URL, status: number): ImageError {
  const hint =
    status === 404 || status === 410
      ? 'the distributor may have moved it: a newer tsvm may know, or config.ini can name another address'
      : status === 401 || status === 403 || status === 407
        ? 'a proxy or a mirror wants to know who asks'
        : undefined;
  return new ImageError(
    'EHTTP',
    `${shown(url)}: the server answers ${status}`,
    hint === undefined ? {} : { hint },
  );
}
