/** Packets of the socket device as a driver makes and reads them (VIRTIO 1.2, 5.10.6). */

export const OP = {
  request: 1,
  response: 2,
  reset: 3,
  shutdown: 4,
  data: 5,
  creditUpdate: 6,
  creditRequest: 7,
} as const;
export const HEADER = 44;
export const STREAM = 1;
export const HOST = 2;

export type Packet = {
  readonly sourceCid: number;
  readonly targetCid: number;
  readonly sourcePort: number;
  readonly targetPort: number;
  readonly length: number;
  readonly type: number;
  readonly op: number;
  readonly flags: number;
  readonly bufferSize: number;
  readonly forwarded: number;
  readonly payload: Uint8Array;
};

export function encode(packet: Omit<Packet, 'payload'>, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(HEADER + payload.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(packet.sourceCid), true);
  view.setBigUint64(8, BigInt(packet.targetCid), true);
  view.setUint32(16, packet.sourcePort, true);
  view.setUint32(20, packet.targetPort, true);
  view.setUint32(24, packet.length, true);
  view.setUint16(28, packet.type, true);
  view.setUint16(30, packet.op, true);
  view.setUint32(32, packet.flags, true);
  view.setUint32(36, packet.bufferSize, true);
  view.setUint32(40, packet.forwarded, true);
  bytes.set(payload, HEADER);
  return bytes;
}

/** @throws Error for bytes that are no packet */
export function decode(bytes: Uint8Array): Packet {
  if (bytes.length < HEADER) throw new Error(`a packet of ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = view.getUint32(24, true);
  if (length !== bytes.length - HEADER)
    throw new Error(`a packet of ${bytes.length} bytes that says ${length}`);
  return {
    sourceCid: Number(view.getBigUint64(0, true)),
    targetCid: Number(view.getBigUint64(8, true)),
    sourcePort: view.getUint32(16, true),
    targetPort: view.getUint32(20, true),
    length,
    type: view.getUint16(28, true),
    op: view.getUint16(30, true),
    flags: view.getUint32(32, true),
    bufferSize: view.getUint32(36, true),
    forwarded: view.getUint32(40, true),
    payload: bytes.slice(HEADER),
  };
}
