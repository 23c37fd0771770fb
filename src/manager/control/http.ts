/** HTTP with JSON bodies for one owner on a unix socket: requests that make no sense get an answer that says so. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import * as v from 'valibot';
import { errorDetails } from './errors.ts';
import { BODY_LIMIT } from './types.ts';

/** What a request cannot be answered with otherwise. */
export class HttpError extends Error {
  override readonly name = 'HttpError';
  readonly status: number;
  readonly code: string;
  readonly hint: string | undefined;

  constructor(status: number, code: string, message: string, hint?: string) {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint;
  }
}

/** One request of the API. What `handle` returns is the answer's JSON; nothing at all means status 204. */
export type Route<Vm> = {
  readonly method: 'GET' | 'POST' | 'PUT';
  /** with `{name}` for what differs from request to request */
  readonly path: string;
  readonly body?: v.GenericSchema;
  handle(vm: Vm, request: RouteRequest): unknown;
};

export type RouteRequest = {
  readonly parameters: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** as the route's schema gives it */
  readonly body: unknown;
  /** aborted when the client has gone */
  readonly signal: AbortSignal;
};

/** Pairs a schema with a handler that knows its type. */
export function withBody<Vm, Schema extends v.GenericSchema>(
  method: 'POST' | 'PUT',
  path: string,
  body: Schema,
  handle: (vm: Vm, body: v.InferOutput<Schema>, request: RouteRequest) => unknown,
): Route<Vm> {
  return {
    method,
    path,
    body,
    handle: (vm, request) => handle(vm, request.body, request),
  };
}

/** Answers one request; never rejects. */
export async function answer<Vm>(
  routes: readonly Route<Vm>[],
  vm: Vm,
  message: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  response.on('error', () => undefined);
  try {
    // First of all: who still sends its request when the answer comes may not hear it.
    const content = await read(message);
    const url = urlOf(message.url ?? '/');
    const [route, parameters] = find(routes, message.method ?? 'GET', url.pathname);
    const body = route.body === undefined ? undefined : parse(route.body, content);
    const result = await route.handle(vm, {
      parameters,
      query: url.searchParams,
      body,
      signal: gone.signal,
    });
    reply(response, result === undefined ? 204 : 200, result);
  } catch (error) {
    replyError(response, error);
  }
}

function find<Vm>(
  routes: readonly Route<Vm>[],
  method: string,
  path: string,
): [Route<Vm>, Record<string, string>] {
  const methods: string[] = [];
  for (const route of routes) {
    const parameters = match(route.path, path);
    if (parameters === undefined) continue;
    if (route.method === method) return [route, parameters];
    methods.push(route.method);
  }
  if (methods.length > 0)
    throw new HttpError(405, 'EMETHOD', `${method} is not for ${path}: it takes ${methods.join(', ')}`);
  throw new HttpError(404, 'ENOENT', `there is no ${path}`);
}

function match(pattern: string, path: string): Record<string, string> | undefined {
  const wanted = pattern.split('/');
  const given = path.split('/');
  if (wanted.length !== given.length) return undefined;
  const parameters: Record<string, string> = {};
  for (const [i, word] of wanted.entries()) {
    const value = given[i]!;
    if (word.startsWith('{')) parameters[word.slice(1, -1)] = value;
    else if (word !== value) return undefined;
  }
  return parameters;
}

function urlOf(text: string): URL {
  try {
    return new URL(text, 'http://vm');
  } catch {
    throw new HttpError(404, 'ENOENT', 'there is no such place');
  }
}

async function read(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of message as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > BODY_LIMIT)
      throw new HttpError(413, 'E2BIG', `a request's body has at most ${BODY_LIMIT} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function parse(schema: v.GenericSchema, content: Buffer): unknown {
  const result = v.safeParse(schema, content.length === 0 ? {} : jsonOf(content));
  if (result.success) return result.output;
  const [issue] = result.issues;
  const path = v.getDotPath(issue);
  throw new HttpError(400, 'EBODY', `${path === null ? 'the body' : `'${path}'`}: ${issue.message}`);
}

function jsonOf(content: Buffer): unknown {
  try {
    return JSON.parse(content.toString('utf8'));
  } catch {
    throw new HttpError(400, 'EJSON', "the request's body is not JSON");
  }
}

function reply(response: ServerResponse, status: number, body: unknown): void {
  if (response.headersSent || response.destroyed) return;
  if (body === undefined) response.writeHead(status).end();
  else {
    const text = JSON.stringify(body);
    response
      .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
      .end(text);
  }
}

function replyError(response: ServerResponse, error: unknown): void {
  const status = error instanceof HttpError ? error.status : error instanceof RangeError ? 400 : 500;
  // What is left of a body that is not wanted is not waited for.
  if (status === 413) response.shouldKeepAlive = false;
  reply(response, status, { error: { code: 'EINTERNAL', ...errorDetails(error) } });
}

/** Resolves when it is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
