/** A command in the guest with its standard streams connected: through ports, as the agent keeps output until the end. */
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import type { AgentClient } from '../agent/client.ts';
import { errorDetails } from '../control/errors.ts';
import { encodeFrame, FRAME, FrameDecoder } from '../control/frames.ts';
import { HttpError } from '../control/http.ts';
import { streamRequest, type StreamRequest, type StreamResult } from '../control/types.ts';
import { untilWoken } from '../control/woken.ts';
import { shellQuote } from '../shell-quote.ts';
import { openSlot, type ExecSlot, type WithPorts } from './exec-slots.ts';

/** What a command's last output may take after its end, in milliseconds. */
const LAST_OUTPUT = 2000;
/** How often it is seen whether a client whose input waits is still there, in milliseconds. */
const STILL_THERE = 1000;
const NOTHING = encodeFrame(FRAME.stdout, Buffer.alloc(0));

/** What commands are run by: a VM's ports and its agent. */
export type ExecGuest = {
  readonly vm: WithPorts;
  readonly agent: AgentClient;
  /** Resolves when a guest that goes on from a snapshot knows what it has to: none of its commands is to run before. */
  readonly woken?: Promise<void>;
  /** of the ports in the guest; default `/dev/virtio-ports` */
  readonly portFolder?: string;
};

/** Serves one client; the connection is closed when the command has ended. Never rejects. */
export async function serveExec(guest: ExecGuest, client: Duplex, head: Buffer): Promise<void> {
  const gone = new AbortController();
  client.on('error', () => undefined);
  // A client has nothing to say after its end.
  client.once('end', () => gone.abort());
  client.once('close', () => gone.abort());
  let result: StreamResult;
  try {
    const input = new ClientInput(client, head);
    const parsed = v.safeParse(
      v.pipe(v.string(), v.parseJson(), streamRequest),
      (await input.request).toString('utf8'),
    );
    if (!parsed.success) throw new HttpError(400, 'EBODY', parsed.issues[0].message);
    result = await run(guest, client, input, parsed.output, gone.signal);
  } catch (error) {
    result = { error: { code: 'EINTERNAL', ...errorDetails(error) } };
  }
  client.end(encodeFrame(FRAME.result, Buffer.from(JSON.stringify(result))));
}

async function run(
  { vm, agent, woken, portFolder }: ExecGuest,
  client: Duplex,
  input: ClientInput,
  request: StreamRequest,
  signal: AbortSignal,
): Promise<StreamResult> {
  await untilWoken(woken, request.timeout, signal);
  const slot = openSlot(vm, portFolder);
  if (slot === undefined)
    throw new HttpError(
      409,
      'EBUSY',
      'too many commands run in the VM with their input and output connected',
    );
  try {
    let said = 0;
    const forward = (stream: Duplex, type: typeof FRAME.stdout | typeof FRAME.stderr): void => {
      stream.on('data', (bytes: Buffer) => {
        said += bytes.length;
        if (!client.writable || client.write(encodeFrame(type, bytes))) return;
        stream.pause();
        client.once('drain', () => stream.resume());
      });
    };
    forward(slot.stdout, FRAME.stdout);
    forward(slot.stderr, FRAME.stderr);
    if (request.stdin) input.pipe(slot.stdin);
    // It is told to end, too, and can clean up better once it waits for nothing.
    signal.addEventListener('abort', () => slot.stdin.destroy(), { once: true });
    const {
      exitCode,
      signal: killed,
      stderr,
    } = await agent.exec('/bin/sh', argumentsOf(slot, request), {
      signal,
      ...(request.env !== undefined && { env: request.env }),
      ...(request.timeout !== undefined && { timeout: request.timeout }),
    });
    await lastOutput(slot, client, signal);
    // Where the ports could not be opened, the shell has told the agent.
    if (said === 0 && stderr.length > 0) client.write(encodeFrame(FRAME.stderr, stderr));
    return { exitCode: exitCode ?? null, signal: killed ?? null };
  } finally {
    slot.close();
  }
}

/** The guest's end: a shell connects the streams, and becomes the command. */
function argumentsOf({ guestPath }: ExecSlot, { command, args, stdin, terminal }: StreamRequest): string[] {
  const streams = `exec ${stdin ? `<${guestPath}.in` : '</dev/null'} >${guestPath}.out 2>${guestPath}.err`;
  if (terminal === undefined) return ['-c', `${streams} && exec "$@"`, 'sh', command, ...args];
  const { columns, rows, name } = terminal;
  const line = `stty rows ${rows} cols ${columns}; exec ${[command, ...args].map(shellQuote).join(' ')}`;
  // script(1), which is where there is a shell, gives a command a terminal, and takes a shell's line.
  const script = `export TERM=${shellQuote(name)} && exec script -q -e -c "$1" /dev/null`;
  return ['-c', `${streams} && ${script}`, 'sh', line];
}

/**
 * The command has ended; what it said last may still be on its way. Some other process of the guest may have its streams
 * and say more, which is not waited for; a client that reads slowly is.
 */
async function lastOutput(slot: ExecSlot, client: Duplex, signal: AbortSignal): Promise<void> {
  let left = LAST_OUTPUT;
  let last = performance.now();
  while (left > 0 && !signal.aborted) {
    const isHeld = client.writableNeedDrain;
    const isThere = slot.stdout.readableLength > 0 || slot.stderr.readableLength > 0;
    if (!slot.guestOpen() && !isThere && !isHeld) return;
    await sleep(5);
    const now = performance.now();
    if (!isHeld) left -= now - last;
    last = now;
  }
}

/** Frames of the client: the request, then standard input. */
class ClientInput {
  readonly request: Promise<Buffer>;
  readonly #client: Duplex;
  readonly #decoder = new FrameDecoder();
  #target: Duplex | undefined;
  #waiting: Buffer[] = [];
  #ended = false;
  #looking: NodeJS.Timeout | undefined;
  #gotRequest: (bytes: Buffer) => void = () => undefined;
  #failed: (error: Error) => void = () => undefined;

  constructor(client: Duplex, head: Buffer) {
    this.#client = client;
    this.request = new Promise((resolve, reject) => {
      this.#gotRequest = resolve;
      this.#failed = reject;
    });
    client.on('data', (bytes: Buffer) => this.#take(bytes));
    const gone = (): void => this.#failed(new Error('the client has gone'));
    client.once('end', gone);
    client.once('close', gone);
    client.once('close', () => clearInterval(this.#looking));
    if (head.length > 0) this.#take(head);
  }

  pipe(target: Duplex): void {
    this.#target = target;
    for (const bytes of this.#waiting.splice(0)) this.#give(bytes);
    if (this.#ended) this.#end();
    target.on('drain', () => this.#resume());
    if (!target.writableNeedDrain) this.#resume();
  }

  #take(bytes: Buffer): void {
    try {
      for (const frame of this.#decoder.feed(bytes)) {
        if (frame.type === FRAME.request) this.#gotRequest(Buffer.from(frame.bytes));
        else if (frame.type !== FRAME.stdin)
          throw new RangeError(`a frame of type ${frame.type} from a client`);
        else if (frame.bytes.length > 0) this.#give(Buffer.from(frame.bytes));
        else {
          this.#ended = true;
          this.#end();
        }
      }
    } catch (error) {
      this.#failed(error instanceof Error ? error : new Error(String(error)));
      this.#client.destroy();
    }
  }

  #give(bytes: Buffer): void {
    if (this.#target === undefined) {
      this.#waiting.push(bytes);
      // Who never wants it does not read it.
      this.#pause();
    } else if (this.#target.writable && !this.#target.write(bytes)) this.#pause();
  }

  /** The end of a connection that is not read shows in writing to it only. */
  #pause(): void {
    this.#client.pause();
    this.#looking ??= setInterval(() => this.#client.write(NOTHING), STILL_THERE);
  }

  #resume(): void {
    clearInterval(this.#looking);
    this.#looking = undefined;
    this.#client.resume();
  }

  /** The guest's end of file is that the port is closed here, once it has taken all. */
  #end(): void {
    this.#target?.end(() => this.#target?.destroy());
  }
}
