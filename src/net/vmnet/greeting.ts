/** What a VMM and a switch say to each other before any frame goes over their socket: one message each way. */
import { hostLabel } from './names.ts';

const VERSION = 1;
const GREETING_LIMIT = 1024;

/** What the VMM says of its VM. */
export type Greeting = {
  /** of its card, `52:54:00:12:34:56` */
  readonly mac: string;
  /** what it is to be called there; it calls itself something by DHCP otherwise */
  readonly name?: string;
  /** it reaches the world by another card, so it may ask for the world's names here */
  readonly uplink: boolean;
};

export type Welcome = { readonly error?: string };

export function encodeGreeting(greeting: Greeting): Buffer {
  return Buffer.from(JSON.stringify({ tsvmVmnet: VERSION, ...greeting }));
}

/** @returns the greeting, or what is wrong with it */
export function decodeGreeting(bytes: Uint8Array): Greeting | string {
  const value = bytes.length > GREETING_LIMIT ? undefined : parse(bytes);
  if (value?.['tsvmVmnet'] !== VERSION) return 'the switch that runs is of another version of tsvm';
  const { mac, name, uplink } = value;
  if (typeof mac !== 'string' || !/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac)) return 'no MAC address';
  if (name !== undefined && (typeof name !== 'string' || hostLabel(name) !== name))
    return 'not a name of a host';
  return { mac, uplink: uplink === true, ...(name !== undefined && { name }) };
}

/** Not shorter than a frame may be. */
export function encodeWelcome(welcome: Welcome): Buffer {
  return Buffer.from(JSON.stringify({ tsvmVmnet: VERSION, ...welcome }));
}

/** undefined where it is none */
export function decodeWelcome(bytes: Uint8Array): Welcome | undefined {
  const value = parse(bytes);
  if (value?.['tsvmVmnet'] === undefined) return undefined;
  const { error } = value;
  return typeof error === 'string' ? { error } : {};
}

function parse(bytes: Uint8Array): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString());
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
