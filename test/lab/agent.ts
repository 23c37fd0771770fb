/**
 * Runs in level 1: takes commands from the virtio-serial port named on its command line and reports on them. Ends,
 * and level 1 with it, when the host has gone.
 */
import { openSync, read, write } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { CommandProcess } from './process.ts';
import {
  encodeFrame,
  FRAME,
  FrameDecoder,
  type Frame,
  type FrameType,
  type StartRequest,
} from './protocol.ts';

/** Output that may wait for the host before the commands are made to wait. */
const HIGH_WATER = 1024 * 1024;
const LOW_WATER = 256 * 1024;
/** The host's end of a port is announced some time after the port itself. */
const CONNECT_ATTEMPTS = 500;

const readPort = promisify(read);
const writePort = promisify(write);

const port = openSync(process.argv[2] ?? '', 'r+');
const commands = new Map<number, CommandProcess>();
const outgoing: Buffer[] = [];
let outgoingBytes = 0;
let sending = false;
let paused = false;

function send(type: FrameType, command: number, payload?: Uint8Array | string): void {
  const frame = encodeFrame(type, command, payload);
  outgoing.push(frame);
  outgoingBytes += frame.length;
  if (outgoingBytes > HIGH_WATER && !paused) pauseAll(true);
  if (!sending) void drain();
}

async function drain(): Promise<void> {
  sending = true;
  while (outgoing.length > 0) {
    const batch = Buffer.concat(outgoing.splice(0));
    for (let done = 0; done < batch.length;) {
      done += (await writePort(port, batch, done, batch.length - done, null)).bytesWritten;
    }
    outgoingBytes -= batch.length;
    if (paused && outgoingBytes < LOW_WATER) pauseAll(false);
  }
  sending = false;
}

function pauseAll(value: boolean): void {
  paused = value;
  for (const command of commands.values()) command.pause(value);
}

function start(id: number, request: StartRequest): void {
  const end = (type: FrameType, payload: string): void => {
    commands.delete(id);
    send(type, id, payload);
  };
  const command = new CommandProcess(request, {
    output: (stream, data) => send(stream === 'stdout' ? FRAME.stdout : FRAME.stderr, id, data),
    stdinTaken: (bytes) => {
      const count = Buffer.alloc(4);
      count.writeUInt32LE(bytes);
      send(FRAME.stdinTaken, id, count);
    },
    exit: (code) => end(FRAME.exit, JSON.stringify({ code })),
    failed: (message) => end(FRAME.failed, message),
  });
  commands.set(id, command);
  if (paused) command.pause(true);
}

function handle({ type, command: id, payload }: Frame): void {
  if (type === FRAME.start) return start(id, JSON.parse(payload.toString()) as StartRequest);
  const command = commands.get(id);
  if (type === FRAME.stdin) command?.write(Buffer.from(payload));
  else if (type === FRAME.stdinEnd) command?.endStdin();
  else if (type === FRAME.kill) command?.kill();
}

async function main(): Promise<void> {
  send(FRAME.ready, 0);
  const decoder = new FrameDecoder();
  const buffer = Buffer.alloc(64 * 1024);
  let connected = false;
  for (let attempt = 0; ; attempt++) {
    const { bytesRead } = await readPort(port, buffer, 0, buffer.length, null);
    if (bytesRead > 0) {
      connected = true;
      for (const frame of decoder.push(Buffer.from(buffer.subarray(0, bytesRead)))) handle(frame);
    } else if (connected || attempt > CONNECT_ATTEMPTS) {
      process.exit(0);
    } else {
      await sleep(10);
    }
  }
}

void main();
