import { request, type IncomingMessage } from 'node:http';
import * as v from 'valibot';
import { ControlError } from './errors.ts';
import { ExecStream } from './exec-stream.ts';
import { encodeFrame, FRAME, STREAM_PATH, STREAM_PROTOCOL } from './frames.ts';
import {
  errorAnswer,
  execAnswer,
  snapshotAnswer,
  vmDescription,
  vmMetrics,
  type ExecAnswer,
  type ExecRequest,
  type SnapshotAnswer,
  type SnapshotRequest,
  type StreamRequestInput,
  type VmDescription,
  type VmMetrics,
} from './types.ts';

/** What a VM's process is given to answer what it knows at once, in milliseconds. */
const QUICK_LIMIT = 10_000;
/** longest answer: the output of a command, twice 16 MiB as base64 */
const ANSWER_LIMIT = 48 * 1024 * 1024;

export type CallOptions = {
  /** in milliseconds, for the whole request; default 10 s */
  readonly timeout?: number;
  readonly signal?: AbortSignal;
};

/** Talks to the process of a running VM. All methods throw {@link ControlError}s, or the signal's reason. */
export class ControlClient {
  readonly #socket: string;

  /** @param socket path, at most 107 bytes */
  constructor(socket: string) {
    this.#socket = socket;
  }

  describe(options?: CallOptions): Promise<VmDescription> {
    return this.#call('GET', '/v1/vm', vmDescription, undefined, options);
  }

  metrics(options?: CallOptions): Promise<VmMetrics> {
    return this.#call('GET', '/v1/metrics', vmMetrics, undefined, options);
  }

  pause(): Promise<void> {
    return this.#tell('/v1/pause');
  }

  resume(): Promise<void> {
    return this.#tell('/v1/resume');
  }

  reset(): Promise<void> {
    return this.#tell('/v1/reset');
  }

  powerButton(): Promise<void> {
    return this.#tell('/v1/power-button');
  }

  ctrlAltDel(): Promise<void> {
    return this.#tell('/v1/ctrl-alt-del');
  }

  /** Returns at once: the end of the process is the end of the VM. */
  stop(mode: 'request' | 'force'): Promise<void> {
    return this.#tell('/v1/stop', { mode });
  }

  /** Takes a snapshot into a folder of the VM's, however long that takes. */
  snapshot(request: SnapshotRequest, signal?: AbortSignal): Promise<SnapshotAnswer> {
    return this.#call('POST', '/v1/snapshot', snapshotAnswer, request, {
      timeout: Infinity,
      ...(signal && { signal }),
    });
  }

  /** The last lines of the console. */
  async consoleTail(lines: number): Promise<string> {
    const schema = v.object({ text: v.string() });
    return (await this.#call('GET', `/v1/console?lines=${lines}`, schema)).text;
  }

  /** Types at the console. */
  send(text: string, options?: CallOptions): Promise<void> {
    return this.#tell('/v1/console', { text }, options);
  }

  /** @param size bytes */
  async resizeDisk(index: number, size: number): Promise<void> {
    await this.#call('PUT', `/v1/disks/${index}/size`, v.undefined(), { size });
  }

  /** @param size bytes */
  async resizeBalloon(size: number): Promise<void> {
    await this.#call('PUT', '/v1/balloon', v.undefined(), { size });
  }

  /** Waits until the guest agent answers. @param timeout milliseconds */
  waitForAgent(timeout: number, signal?: AbortSignal): Promise<void> {
    return this.#tell(
      '/v1/agent/wait',
      { timeout },
      { timeout: timeout + QUICK_LIMIT, ...(signal && { signal }) },
    );
  }

  /** Runs a command in the guest through its agent. It is killed where `signal` ends the wait. */
  exec(command: ExecRequest, signal?: AbortSignal): Promise<ExecAnswer> {
    const limit = command.timeout === undefined ? Infinity : command.timeout + QUICK_LIMIT;
    return this.#call('POST', '/v1/agent/exec', execAnswer, command, {
      timeout: limit,
      ...(signal && { signal }),
    });
  }

  /**
   * Begins a command in the guest whose standard streams are connected. It is killed where the stream is destroyed.
   */
  stream(command: StreamRequestInput): Promise<ExecStream> {
    return new Promise((resolve, reject) => {
      const message = request({
        socketPath: this.#socket,
        method: 'POST',
        path: STREAM_PATH,
        headers: { connection: 'upgrade', upgrade: STREAM_PROTOCOL },
        agent: false,
      });
      message.on('error', (error) =>
        reject(
          new ControlError('ECONTROL', `the VM's process cannot be reached: ${error.message}`, undefined, {
            cause: error,
          }),
        ),
      );
      message.on('response', (response) => {
        response.resume();
        reject(
          new ControlError(
            'ECONTROL',
            "the VM's process does not connect commands",
            'restart the VM: it may run under another version of tsvm',
          ),
        );
      });
      message.on('upgrade', (_, socket, head) => {
        socket.write(encodeFrame(FRAME.request, Buffer.from(JSON.stringify(command))));
        resolve(new ExecStream(socket, head));
      });
      message.end();
    });
  }

  async #tell(path: string, body?: unknown, options?: CallOptions): Promise<void> {
    await this.#call('POST', path, v.undefined(), body, options);
  }

  async #call<Schema extends v.GenericSchema>(
    method: string,
    path: string,
    schema: Schema,
    body?: unknown,
    options: CallOptions = {},
  ): Promise<v.InferOutput<Schema>> {
    const { status, text } = await this.#request(method, path, body, options);
    const answer = text === '' ? undefined : parse(text);
    if (status >= 400) {
      const failure = v.safeParse(errorAnswer, answer);
      if (!failure.success)
        throw new ControlError('ECONTROL', `the VM's process answers ${path} with status ${status}`);
      const { code, message, hint } = failure.output.error;
      throw new ControlError(code, message, hint);
    }
    const result = v.safeParse(schema, answer);
    if (!result.success)
      throw new ControlError(
        'ECONTROL',
        `the VM's process answers ${path} with what this version does not understand`,
        'restart the VM: it may run under another version of tsvm',
      );
    return result.output;
  }

  #request(
    method: string,
    path: string,
    body: unknown,
    { timeout = QUICK_LIMIT, signal }: CallOptions,
  ): Promise<{ status: number; text: string }> {
    return new Promise((resolve, reject) => {
      const payload = body === undefined ? undefined : JSON.stringify(body);
      const headers = payload === undefined ? {} : { 'content-type': 'application/json' };
      // No agent: a kept connection would keep the process of the caller, too.
      const message = request({ socketPath: this.#socket, method, path, headers, agent: false });
      const timer = Number.isFinite(timeout)
        ? setTimeout(
            () =>
              fail(
                new ControlError(
                  'ECONTROL',
                  `the VM's process does not answer ${path} within ${timeout / 1000} s`,
                ),
              ),
            timeout,
          )
        : undefined;
      const abort = (): void => fail(signal?.reason);
      const finish = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
      };
      const fail = (error: unknown): void => {
        finish();
        message.destroy();
        reject(error instanceof Error ? error : new Error(String(error)));
      };
      signal?.addEventListener('abort', abort, { once: true });
      message.on('error', (error) =>
        fail(
          new ControlError('ECONTROL', `the VM's process cannot be reached: ${error.message}`, undefined, {
            cause: error,
          }),
        ),
      );
      message.on('response', (response) => {
        collect(response).then((text) => {
          finish();
          resolve({ status: response.statusCode ?? 500, text });
        }, fail);
      });
      if (signal?.aborted === true) abort();
      else message.end(payload);
    });
  }
}

async function collect(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > ANSWER_LIMIT) throw new ControlError('ECONTROL', "the VM's process answers without end");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ControlError('ECONTROL', "the VM's process answers with what is not JSON");
  }
}
