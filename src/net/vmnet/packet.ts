/** Ethernet, ARP, IPv4, UDP and ICMP echo: as much of them as the services of a network need. */

export const ETHERNET = { header: 14, ip4: 0x0800, arp: 0x0806 } as const;
const IP4 = { header: 20, icmp: 1, udp: 17 } as const;
const UDP_HEADER = 8;
const ARP_SIZE = 28;

export const BROADCAST = Buffer.from('ffffffffffff', 'hex');
export const ANY_ADDRESS = 0;
export const BROADCAST_ADDRESS = 0xffffffff;

/** IPv4 addresses are numbers, as their 32 bits in network order say. */
export type Address = number;

/** A datagram within a frame; `data` lies in the frame's memory. */
export type Datagram = {
  readonly sourceMac: Buffer;
  readonly source: Address;
  readonly destination: Address;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly data: Buffer;
};

export function formatAddress(address: Address): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.');
}

export function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** @param frame without an offload header. Returns undefined for anything but a whole IPv4 packet without fragments. */
function ip4Of(frame: Buffer): { readonly header: number; readonly end: number } | undefined {
  const at = ETHERNET.header;
  if (frame.length < at + IP4.header || frame.readUInt16BE(12) !== ETHERNET.ip4) return undefined;
  const header = (frame[at]! & 0x0f) * 4;
  const total = frame.readUInt16BE(at + 2);
  if (frame[at]! >> 4 !== 4 || header < IP4.header || total < header || at + total > frame.length)
    return undefined;
  // MF, or an offset
  if ((frame.readUInt16BE(at + 6) & 0x3fff) !== 0) return undefined;
  return { header, end: at + total };
}

/** The UDP datagram in a frame; undefined where there is none that is whole. Its checksum is not looked at. */
export function readUdp(frame: Buffer): Datagram | undefined {
  const ip = ip4Of(frame);
  if (ip === undefined || frame[ETHERNET.header + 9] !== IP4.udp) return undefined;
  const at = ETHERNET.header + ip.header;
  if (at + UDP_HEADER > ip.end) return undefined;
  const length = frame.readUInt16BE(at + 4);
  if (length < UDP_HEADER || at + length > ip.end) return undefined;
  return {
    sourceMac: frame.subarray(6, 12),
    source: frame.readUInt32BE(ETHERNET.header + 12),
    destination: frame.readUInt32BE(ETHERNET.header + 16),
    sourcePort: frame.readUInt16BE(at),
    destinationPort: frame.readUInt16BE(at + 2),
    data: frame.subarray(at + UDP_HEADER, at + length),
  };
}

export type UdpReply = {
  readonly sourceMac: Uint8Array;
  readonly destinationMac: Uint8Array;
  readonly source: Address;
  readonly destination: Address;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly data: Uint8Array;
};

/** A frame with one UDP datagram, without an offload header. */
export function udpFrame(reply: UdpReply): Buffer {
  const { data } = reply;
  const length = UDP_HEADER + data.length;
  const frame = ip4Frame(reply, IP4.udp, length);
  const at = ETHERNET.header + IP4.header;
  frame.writeUInt16BE(reply.sourcePort, at);
  frame.writeUInt16BE(reply.destinationPort, at + 2);
  frame.writeUInt16BE(length, at + 4);
  frame.set(data, at + UDP_HEADER);
  const pseudo = sum16(frame, ETHERNET.header + 12, at) + IP4.udp + length;
  const checksum = fold(pseudo + sum16(frame, at, frame.length));
  // RFC 768: 0 would say that there is none
  frame.writeUInt16BE(checksum === 0 ? 0xffff : checksum, at + 6);
  return frame;
}

function ip4Frame(
  reply: Pick<UdpReply, 'sourceMac' | 'destinationMac' | 'source' | 'destination'>,
  protocol: number,
  length: number,
): Buffer {
  const frame = Buffer.alloc(ETHERNET.header + IP4.header + length);
  frame.set(reply.destinationMac, 0);
  frame.set(reply.sourceMac, 6);
  frame.writeUInt16BE(ETHERNET.ip4, 12);
  const at = ETHERNET.header;
  frame[at] = 0x45;
  frame.writeUInt16BE(IP4.header + length, at + 2);
  // DF
  frame.writeUInt16BE(0x4000, at + 6);
  // RFC 4795, 2.5 wants as much of an LLMNR answer as it can get.
  frame[at + 8] = 255;
  frame[at + 9] = protocol;
  frame.writeUInt32BE(reply.source, at + 12);
  frame.writeUInt32BE(reply.destination, at + 16);
  frame.writeUInt16BE(fold(sum16(frame, at, at + IP4.header)), at + 10);
  return frame;
}

/** The answer to an ARP request for one of our addresses; undefined where the frame is none (RFC 826). */
export function answerArp(frame: Buffer, address: Address, mac: Uint8Array): Buffer | undefined {
  const at = ETHERNET.header;
  if (frame.length < at + ARP_SIZE || frame.readUInt16BE(12) !== ETHERNET.arp) return undefined;
  // Ethernet, IPv4, 6 and 4 bytes, request
  if (frame.readUInt32BE(at) !== 0x0001_0800 || frame.readUInt32BE(at + 4) !== 0x0604_0001) return undefined;
  if (frame.readUInt32BE(at + 24) !== address) return undefined;
  const reply = Buffer.alloc(at + ARP_SIZE);
  reply.set(frame.subarray(6, 12), 0);
  reply.set(mac, 6);
  frame.copy(reply, 12, 12, at + 6);
  reply.writeUInt16BE(2, at + 6);
  reply.set(mac, at + 8);
  reply.writeUInt32BE(address, at + 14);
  frame.copy(reply, at + 18, at + 8, at + 18);
  return reply;
}

/** The answer to a ping of one of our addresses; undefined where the frame is none (RFC 792). */
export function answerPing(frame: Buffer, address: Address, mac: Uint8Array): Buffer | undefined {
  const ip = ip4Of(frame);
  if (ip === undefined || frame[ETHERNET.header + 9] !== IP4.icmp) return undefined;
  if (frame.readUInt32BE(ETHERNET.header + 16) !== address) return undefined;
  const from = ETHERNET.header + ip.header;
  // echo, code 0
  if (ip.end - from < 8 || frame.readUInt16BE(from) !== 0x0800) return undefined;
  const reply = ip4Frame(
    {
      sourceMac: mac,
      destinationMac: frame.subarray(6, 12),
      source: address,
      destination: frame.readUInt32BE(ETHERNET.header + 12),
    },
    IP4.icmp,
    ip.end - from,
  );
  const at = ETHERNET.header + IP4.header;
  frame.copy(reply, at, from, ip.end);
  reply.writeUInt32BE(0, at);
  reply.writeUInt16BE(fold(sum16(reply, at, reply.length)), at + 2);
  return reply;
}

/** Sum of 16-bit words, the last one filled up with zeros (RFC 1071). */
function sum16(bytes: Buffer, from: number, to: number): number {
  let sum = 0;
  for (let at = from; at + 1 < to; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!;
  return (to - from) % 2 === 0 ? sum : sum + (bytes[to - 1]! << 8);
}

function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return ~folded & 0xffff;
}
