import {
  BROADCAST,
  BROADCAST_ADDRESS,
  readUdp,
  udpFrame,
  type Address,
} from '../../../src/net/vmnet/packet.ts';
import type { Station } from './station.ts';

export type DhcpReply = {
  readonly type: number;
  readonly transaction: number;
  readonly address: Address;
  readonly server: Address;
  /** by code; of one that is split the parts are joined */
  readonly options: ReadonlyMap<number, Buffer>;
  /** Ethernet address of who answered */
  readonly from: Buffer;
};

export type DhcpFields = {
  readonly transaction?: number;
  readonly clientAddress?: Address;
  readonly relay?: Address;
  readonly broadcast?: boolean;
  /** besides the type */
  readonly options?: readonly (readonly [code: number, value: Uint8Array | string])[];
};

/** A client's message (RFC 2131, 2). */
export function dhcpMessage(mac: Uint8Array, type: number, fields: DhcpFields = {}): Buffer {
  const fixed = Buffer.alloc(240);
  fixed.set([1, 1, 6, 0]);
  fixed.writeUInt32BE(fields.transaction ?? 0x1234, 4);
  if (fields.broadcast === true) fixed.writeUInt16BE(0x8000, 10);
  fixed.writeUInt32BE(fields.clientAddress ?? 0, 12);
  fixed.writeUInt32BE(fields.relay ?? 0, 24);
  fixed.set(mac, 28);
  fixed.writeUInt32BE(0x63825363, 236);
  const options = [[53, Uint8Array.of(type)] as const, ...(fields.options ?? [])].map(([code, value]) => {
    const bytes = Buffer.from(value);
    return Buffer.concat([Buffer.of(code, bytes.length), bytes]);
  });
  return Buffer.concat([fixed, ...options, Buffer.of(255)]);
}

export function readReply(frame: Buffer): DhcpReply | undefined {
  const datagram = readUdp(frame);
  if (datagram?.sourcePort !== 67 || datagram.destinationPort !== 68) return undefined;
  const { data } = datagram;
  const options = new Map<number, Buffer>();
  for (let at = 240; at < data.length && data[at] !== 255;) {
    if (data[at] === 0) {
      at++;
      continue;
    }
    const value = data.subarray(at + 2, at + 2 + data[at + 1]!);
    options.set(data[at]!, Buffer.concat([options.get(data[at]!) ?? Buffer.alloc(0), value]));
    at += 2 + data[at + 1]!;
  }
  return {
    type: options.get(53)?.[0] ?? 0,
    transaction: data.readUInt32BE(4),
    address: data.readUInt32BE(16),
    server: options.get(54)?.readUInt32BE(0) ?? 0,
    options,
    from: Buffer.from(datagram.sourceMac),
  };
}

/** Asks, and waits for the answer. */
export function dhcpAsk(station: Station, type: number, fields: DhcpFields = {}): Promise<DhcpReply> {
  station.send(dhcpFrame(station.mac, type, fields));
  return station.next(readReply);
}

export function dhcpFrame(mac: Buffer, type: number, fields: DhcpFields = {}): Buffer {
  return udpFrame({
    sourceMac: mac,
    destinationMac: BROADCAST,
    source: fields.clientAddress ?? 0,
    destination: BROADCAST_ADDRESS,
    sourcePort: 68,
    destinationPort: 67,
    data: dhcpMessage(mac, type, fields),
  });
}
