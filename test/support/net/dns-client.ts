import { encodeName } from '../../../src/net/vmnet/dns-message.ts';

export type DnsAnswer = {
  readonly rcode: number;
  /** as the question comes back */
  readonly name: string;
  /** of A records */
  readonly addresses: readonly number[];
  /** of PTR records */
  readonly names: readonly string[];
};

/** A question with recursion desired (RFC 1035, 4.1). */
export function dnsQuery(name: string, type: number, id = 0x4711): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt16BE(id, 0);
  header.writeUInt16BE(0x0100, 2);
  header.writeUInt16BE(1, 4);
  return Buffer.concat([header, encodeName(name), Buffer.from([0, type, 0, 1])]);
}

/** Reads an answer whose records name the question by a pointer. */
export function readDnsAnswer(data: Buffer): DnsAnswer {
  const [name, end] = readName(data, 12);
  const addresses: number[] = [];
  const names: string[] = [];
  let at = end + 4;
  for (let i = 0; i < data.readUInt16BE(6); i++) {
    const type = data.readUInt16BE(at + 2);
    if (type === 1) addresses.push(data.readUInt32BE(at + 12));
    if (type === 12) names.push(readName(data, at + 12)[0]);
    at += 12 + data.readUInt16BE(at + 10);
  }
  return { rcode: data[3]! & 15, name, addresses, names };
}

function readName(data: Buffer, from: number): readonly [name: string, end: number] {
  const labels: string[] = [];
  let at = from;
  for (; data[at] !== 0; at += 1 + data[at]!)
    labels.push(data.toString('latin1', at + 1, at + 1 + data[at]!));
  return [labels.join('.'), at + 1];
}
