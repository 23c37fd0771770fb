/** DHCP messages as they go over the wire (RFC 2131, 2; RFC 2132). */
import type { Address } from './packet.ts';

export const DHCP_PORT = { server: 67, client: 68 } as const;

export const DHCP_TYPE = {
  discover: 1,
  offer: 2,
  request: 3,
  decline: 4,
  ack: 5,
  nak: 6,
  release: 7,
  inform: 8,
} as const;

export const DHCP_OPTION = {
  pad: 0,
  subnetMask: 1,
  nameServers: 6,
  hostName: 12,
  domainName: 15,
  mtu: 26,
  broadcast: 28,
  requestedAddress: 50,
  leaseTime: 51,
  messageType: 53,
  serverId: 54,
  renewalTime: 58,
  rebindingTime: 59,
  clientFqdn: 81,
  /** RFC 3397 */
  domainSearch: 119,
  end: 255,
} as const;

const FIXED = 236;
const MAGIC = 0x63825363;
const BROADCAST_FLAG = 0x8000;
/** RFC 2131, 2: what every client takes. */
const LEAST_SIZE = 300;

/** A client's message. Numbers and addresses are 0 where they are not given. */
export type DhcpRequest = {
  readonly type: number;
  readonly transaction: number;
  readonly secs: number;
  /** answers are to be broadcast */
  readonly broadcast: boolean;
  readonly clientAddress: Address;
  readonly relay: Address;
  readonly mac: Buffer;
  readonly requested: Address;
  readonly serverId: Address;
  /** as the client sent it */
  readonly hostName: string;
};

/** Reads what may be any bytes; undefined where it is no message of a client on Ethernet. */
export function readDhcp(data: Buffer): DhcpRequest | undefined {
  // BOOTREQUEST, Ethernet, 6 bytes
  if (data.length < FIXED + 4 || data[0] !== 1 || data[1] !== 1 || data[2] !== 6) return undefined;
  if (data.readUInt32BE(FIXED) !== MAGIC) return undefined;
  const options = readOptions(data, FIXED + 4);
  const type = options.get(DHCP_OPTION.messageType);
  if (type?.length !== 1) return undefined;
  const addressOf = (option: number): Address => {
    const value = options.get(option);
    return value?.length === 4 ? value.readUInt32BE(0) : 0;
  };
  return {
    type: type[0]!,
    transaction: data.readUInt32BE(4),
    secs: data.readUInt16BE(8),
    broadcast: (data.readUInt16BE(10) & BROADCAST_FLAG) !== 0,
    clientAddress: data.readUInt32BE(12),
    relay: data.readUInt32BE(24),
    mac: data.subarray(28, 34),
    requested: addressOf(DHCP_OPTION.requestedAddress),
    serverId: addressOf(DHCP_OPTION.serverId),
    hostName: hostNameOf(options),
  };
}

/** Options up to the end or the first that does not fit; of one that is given again the first counts. */
function readOptions(data: Buffer, from: number): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  for (let at = from; at < data.length && data[at] !== DHCP_OPTION.end;) {
    const code = data[at]!;
    if (code === DHCP_OPTION.pad) {
      at++;
      continue;
    }
    const length = data[at + 1];
    if (length === undefined || at + 2 + length > data.length) break;
    if (!options.has(code)) options.set(code, data.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return options;
}

function hostNameOf(options: ReadonlyMap<number, Buffer>): string {
  const name = options.get(DHCP_OPTION.hostName)?.toString('latin1');
  if (name !== undefined) return name;
  // RFC 4702, 2: flags and two obsolete bytes, then the name, in labels if flag E is set.
  const fqdn = options.get(DHCP_OPTION.clientFqdn);
  if (fqdn === undefined || fqdn.length < 5) return '';
  const encoded = (fqdn[0]! & 0x04) !== 0;
  return encoded ? fqdn.subarray(4, 4 + fqdn[3]!).toString('latin1') : fqdn.subarray(3).toString('latin1');
}

export type DhcpReply = {
  readonly type: number;
  readonly request: DhcpRequest;
  /** 0 for none */
  readonly address: Address;
  readonly server: Address;
  readonly options: readonly (readonly [code: number, value: Uint8Array])[];
};

export function writeDhcp({ type, request, address, server, options }: DhcpReply): Buffer {
  const all: (readonly [number, Uint8Array])[] = [
    [DHCP_OPTION.messageType, Uint8Array.of(type)],
    [DHCP_OPTION.serverId, addressBytes(server)],
    ...options,
  ];
  const length = FIXED + 4 + all.reduce((sum, [, value]) => sum + 2 + value.length, 0) + 1;
  const data = Buffer.alloc(Math.max(LEAST_SIZE, length));
  // BOOTREPLY, Ethernet, 6 bytes
  data.set([2, 1, 6, 0], 0);
  data.writeUInt32BE(request.transaction, 4);
  if (request.broadcast) data.writeUInt16BE(BROADCAST_FLAG, 10);
  if (type !== DHCP_TYPE.nak) data.writeUInt32BE(request.clientAddress, 12);
  data.writeUInt32BE(address, 16);
  data.set(request.mac, 28);
  data.writeUInt32BE(MAGIC, FIXED);
  let at = FIXED + 4;
  for (const [code, value] of all) {
    data[at] = code;
    data[at + 1] = value.length;
    data.set(value, at + 2);
    at += 2 + value.length;
  }
  data[at] = DHCP_OPTION.end;
  return data;
}

export function addressBytes(...addresses: readonly Address[]): Buffer {
  const bytes = Buffer.alloc(4 * addresses.length);
  for (const [i, address] of addresses.entries()) bytes.writeUInt32BE(address, 4 * i);
  return bytes;
}

export function wordBytes(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
