import { ETHERNET, type Address } from '../../../src/net/vmnet/packet.ts';

export type TcpSegment = {
  readonly sourceMac: Uint8Array;
  readonly destinationMac: Uint8Array;
  readonly source: Address;
  readonly destination: Address;
  readonly sourcePort: number;
  readonly destinationPort: number;
};

const SYN = 0x02;

/** An Ethernet frame with the first segment of a connection over IPv4. */
export function synFrame(segment: TcpSegment): Buffer {
  const frame = Buffer.alloc(ETHERNET.header + 40);
  frame.set(segment.destinationMac, 0);
  frame.set(segment.sourceMac, 6);
  frame.writeUInt16BE(ETHERNET.ip4, 12);
  frame.set([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6], 14);
  frame.writeUInt32BE(segment.source, 26);
  frame.writeUInt32BE(segment.destination, 30);
  frame.writeUInt16BE(checksum(frame, 14, 34, 0), 24);
  frame.writeUInt16BE(segment.sourcePort, 34);
  frame.writeUInt16BE(segment.destinationPort, 36);
  frame.writeUInt32BE(1000, 38);
  frame.set([0x50, SYN, 0xff, 0xff], 46);
  // the pseudo header: addresses, protocol and length
  frame.writeUInt16BE(checksum(frame, 26, 54, 6 + 20), 50);
  return frame;
}

/** The ports of a segment that begins a connection; undefined for any other frame. */
export function readSyn(
  frame: Buffer,
): { readonly sourcePort: number; readonly destinationPort: number } | undefined {
  if (frame.length < 54 || frame.readUInt16BE(12) !== ETHERNET.ip4 || frame[23] !== 6) return undefined;
  if ((frame[47]! & 0x12) !== SYN) return undefined;
  return { sourcePort: frame.readUInt16BE(34), destinationPort: frame.readUInt16BE(36) };
}

function checksum(bytes: Buffer, from: number, to: number, more: number): number {
  let sum = more;
  for (let at = from; at < to; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
