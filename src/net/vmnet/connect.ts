/** The way of a VMM to its network's switch, which is started where there is none. */
import { spawn } from 'node:child_process';
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from '../../kvm/system-code.ts';
import { KvmError } from '../../kvm/errors.ts';
import { connectUnix } from '../../kvm/unix-socket.ts';
import { NetworkError } from '../network-error.ts';
import { decodeWelcome, encodeGreeting, type Greeting } from './greeting.ts';
import type { VmnetPlace } from './place.ts';

/** On a slow host with many VMs that start at once, processes take long to come up. */
const LIMIT_MS = 120_000;
const STEP_MS = 20;
const WELCOME_LIMIT = 2048;

export type SwitchCommand = readonly [program: string, ...args: string[]];

/** A switch that was started, and may have found that another one serves the network. */
export type StartedSwitch = { readonly ended: () => boolean };

/**
 * Connects to the switch of a network, and starts one where there is none.
 * @param start starts what serves the network; that ends at once where another process does
 * @returns the socket, for frames from here on
 * @throws NetworkError where the switch does not come up, or does not let the VM in
 */
export async function connectVmnet(
  place: VmnetPlace,
  greeting: Greeting,
  start: () => StartedSwitch,
): Promise<number> {
  const end = performance.now() + LIMIT_MS;
  let starting: StartedSwitch | undefined;
  for (;;) {
    const socket = tryToConnect(place.socket);
    // One that is about to end closes it again without a word.
    const welcomed = socket !== undefined && (await greet(place, socket, greeting, end));
    if (welcomed) return socket;
    if (performance.now() > end) {
      throw new NetworkError(
        'ETIMEDOUT',
        `the switch of the network ${place.name} has not come up within ${LIMIT_MS / 1000} s`,
        `see ${place.log}`,
      );
    }
    if (starting?.ended() ?? true) starting = start();
    await sleep(STEP_MS);
  }
}

function tryToConnect(path: string): number | undefined {
  try {
    return connectUnix(path);
  } catch (error) {
    if (error instanceof KvmError && ['ENOENT', 'ECONNREFUSED', 'EAGAIN'].includes(error.code))
      return undefined;
    throw error;
  }
}

/** It outlives this process, and is nobody's child then. */
export function startSwitch(place: VmnetPlace, [program, ...args]: SwitchCommand): StartedSwitch {
  const log = openLog(place);
  try {
    const child = spawn(program, args, { detached: true, stdio: ['ignore', log, log], cwd: '/' });
    child.on('error', () => undefined);
    child.unref();
    return { ended: () => child.exitCode !== null || child.signalCode !== null };
  } finally {
    closeSync(log);
  }
}

/** For what a switch says. @returns a descriptor */
export function openLog({ log }: VmnetPlace): number {
  return openSync(log, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
}

/** Returns whether the switch answered; closes the socket where not. @throws NetworkError where it does not want us */
async function greet(place: VmnetPlace, socket: number, greeting: Greeting, end: number): Promise<boolean> {
  try {
    const body = encodeGreeting(greeting);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(body.length);
    writeSync(socket, Buffer.concat([length, body]));
    const welcome = await readMessage(socket, end);
    const answer = welcome && decodeWelcome(welcome);
    if (answer?.error !== undefined) {
      throw new NetworkError('EACCES', `the network ${place.name} does not take the VM: ${answer.error}`);
    }
    if (answer !== undefined) return true;
  } catch (error) {
    closeSync(socket);
    if (error instanceof NetworkError) throw error;
    return false;
  }
  closeSync(socket);
  return false;
}

/** One message, and no byte of what follows it; undefined where the peer has closed. */
async function readMessage(socket: number, end: number): Promise<Buffer | undefined> {
  const length = await readBytes(socket, 4, end);
  const size = length?.readUInt32BE(0) ?? 0;
  if (size === 0 || size > WELCOME_LIMIT) return undefined;
  return readBytes(socket, size, end);
}

async function readBytes(socket: number, count: number, end: number): Promise<Buffer | undefined> {
  const bytes = Buffer.alloc(count);
  for (let got = 0; got < count;) {
    const more = readSome(socket, bytes, got);
    if (more === 0 || performance.now() > end) return undefined;
    if (more === undefined) await sleep(1);
    else got += more;
  }
  return bytes;
}

function readSome(socket: number, bytes: Buffer, at: number): number | undefined {
  try {
    return readSync(socket, bytes, at, bytes.length - at, null);
  } catch (error) {
    if (systemCode(error) === 'EAGAIN') return undefined;
    throw error;
  }
}
