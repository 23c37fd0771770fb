import { createHash } from 'node:crypto';
import { ADDRESS } from './protocol.ts';

/** Unicast, and given by an administrator instead of a manufacturer (IEEE 802). */
const LOCAL = 0x02;
const GROUP = 0x01;

/**
 * The address of a network card of a VM: the same for the same VM, another one for each other VM and card.
 * @param seed what tells the VM from all others, e.g. its name
 */
export function macAddressFor(seed: string, index: number): Uint8Array {
  const address = new Uint8Array(
    createHash('sha256').update(`${seed}\0${index}`).digest().subarray(0, ADDRESS),
  );
  address[0] = (address[0]! & ~(LOCAL | GROUP)) | LOCAL;
  return address;
}

/** Six bytes in hexadecimal with colons between. @throws RangeError where it is none, or is a group's */
export function parseMacAddress(text: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)) {
    throw new RangeError(`'${text}' is no MAC address: it has the form 52:54:00:12:34:56`);
  }
  const address = Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
  if ((address[0]! & GROUP) !== 0) {
    throw new RangeError(`'${text}' is the address of a group: the first byte of a card's is even`);
  }
  if (address.every((byte) => byte === 0)) throw new RangeError(`'${text}' is no card's address`);
  return address;
}

export function formatMacAddress(address: Uint8Array): string {
  return Array.from(address, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}
