/** What a network card makes of frames, written apart from it and slowly, to be compared with it. */

/** Bits of features (VIRTIO 1.2, 5.1.3), which are those of offloads in headers too. */
export const BIT = {
  csum: 0,
  guestCsum: 1,
  guestTso4: 7,
  guestTso6: 8,
  guestEcn: 9,
  hostTso4: 11,
  hostTso6: 12,
  hostEcn: 13,
  mrgRxbuf: 15,
  ctrlVq: 17,
  ctrlRx: 18,
  ctrlVlan: 19,
  ctrlRxExtra: 20,
  ctrlMacAddr: 23,
} as const;

export const HEADER = 12;
const LEAST = 14;
const NEEDS_CHECKSUM = 1;
const DATA_VALID = 2;
const ECN = 0x80;
/** as the card has it: headers of one segment, and segments of one frame */
const LONGEST_HEADERS = 256;
const MOST_SEGMENTS = 1365;

/** What one side may leave to the other. */
export type Offloads = {
  readonly checksum: boolean;
  readonly tso4: boolean;
  readonly tso6: boolean;
  readonly ecn: boolean;
};

export type VnetFrame = { readonly header: Uint8Array; readonly frame: Uint8Array };

const u16 = (bytes: Uint8Array, at: number): number => bytes[at]! * 256 + bytes[at + 1]!;
const le16 = (bytes: Uint8Array, at: number): number => bytes[at]! + bytes[at + 1]! * 256;

function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = (value >>> 8) & 0xff;
  bytes[at + 1] = value & 0xff;
}

/** The Internet checksum (RFC 1071), word by word. */
function checksum(...parts: readonly Uint8Array[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let i = 0; i < part.length; i += 2) {
      sum += part[i]! * 256 + (part[i + 1] ?? 0);
      if (sum > 0xffff) sum -= 0xffff;
    }
  }
  return 0xffff - sum;
}

/** What a header asks for, with what has no meaning taken out; undefined where it makes no sense. */
function readHeader(header: Uint8Array, length: number): { asks: Offloads; clean: Uint8Array } | undefined {
  const [flags = 0, type = 0] = header;
  const clean = new Uint8Array(HEADER);
  const needs = (flags & NEEDS_CHECKSUM) !== 0;
  const end = le16(header, 6) + le16(header, 8) + 2;
  if (needs && end > length) return undefined;
  const kind = type & ~ECN;
  if (![0, 1, 4].includes(kind)) return undefined;
  if (kind !== 0 && (!needs || le16(header, 4) === 0 || le16(header, 8) !== 16)) return undefined;
  clean[0] = flags & (NEEDS_CHECKSUM | DATA_VALID);
  if (needs) clean.set(header.subarray(6, 10), 6);
  if (kind !== 0) {
    clean[1] = type;
    const hint = le16(header, 2);
    const told = hint < end || hint > length ? end : hint;
    clean.set([told & 0xff, told >>> 8, header[4]!, header[5]!], 2);
  }
  const ecn = kind !== 0 && (type & ECN) !== 0;
  return { asks: { checksum: needs, tso4: kind === 1, tso6: kind === 4, ecn }, clean };
}

const within = (asks: Offloads, allowed: Offloads): boolean =>
  (['checksum', 'tso4', 'tso6', 'ecn'] as const).every((each) => !asks[each] || allowed[each]);

/** The frames that go over the wire in place of one that is to be cut; undefined where its headers make no sense. */
function segments({ header, frame }: VnetFrame): Uint8Array[] | undefined {
  const size = le16(header, 4);
  const tcp = le16(header, 6);
  const six = (header[1]! & ~ECN) === 4;
  if (tcp + 20 > Math.min(LONGEST_HEADERS, frame.length)) return undefined;
  let ip = 14;
  let type = u16(frame, 12);
  while ((type === 0x8100 || type === 0x88a8) && ip + 4 < tcp) {
    type = u16(frame, ip + 2);
    ip += 4;
  }
  if (type !== (six ? 0x86dd : 0x0800) || tcp - ip < (six ? 40 : 20)) return undefined;
  if (frame[ip]! >> 4 !== (six ? 6 : 4)) return undefined;
  if (!six && (tcp - ip !== (frame[ip]! & 15) * 4 || frame[ip + 9] !== 6)) return undefined;
  const words = frame[tcp + 12]! >> 4;
  const data = tcp + 4 * words;
  if (words < 5 || data > LONGEST_HEADERS || data >= frame.length) return undefined;
  const payload = frame.subarray(data);
  const count = Math.ceil(payload.length / size);
  if (count > MOST_SEGMENTS || data - ip + Math.min(size, payload.length) > 0xffff) return undefined;
  return Array.from({ length: count }, (_, i) => {
    const piece = payload.subarray(i * size, (i + 1) * size);
    const out = new Uint8Array(data + piece.length);
    out.set(frame.subarray(0, data));
    out.set(piece, data);
    const view = new DataView(out.buffer);
    const pseudo = new Uint8Array(six ? 36 : 12);
    if (six) {
      put16(out, ip + 4, out.length - ip - 40);
      pseudo.set(out.subarray(ip + 8, ip + 40));
    } else {
      put16(out, ip + 2, out.length - ip);
      put16(out, ip + 4, u16(frame, ip + 4) + i);
      put16(out, ip + 10, 0);
      put16(out, ip + 10, checksum(out.subarray(ip, tcp)));
      pseudo.set(out.subarray(ip + 12, ip + 20));
    }
    const tail = pseudo.length - 4;
    pseudo[tail + 1] = 6;
    put16(pseudo, tail + 2, out.length - tcp);
    view.setUint32(tcp + 4, (view.getUint32(tcp + 4) + i * size) >>> 0);
    // FIN and PSH are the last one's, CWR the first one's
    if (i < count - 1) out[tcp + 13]! &= ~0x09;
    if (i > 0) out[tcp + 13]! &= ~0x80;
    put16(out, tcp + 16, 0);
    put16(out, tcp + 16, checksum(pseudo, out.subarray(tcp)) || 0xffff);
    return out;
  });
}

function completed({ header, frame }: VnetFrame): Uint8Array {
  const out = frame.slice();
  const start = le16(header, 6);
  put16(out, start + le16(header, 8), checksum(out.subarray(start)) || 0xffff);
  return out;
}

/**
 * What reaches the host of a packet of the guest's, as it goes over the wire; undefined where it is refused.
 * @param wire whether the host has offload headers
 */
export function sent(packet: Uint8Array, allowed: Offloads, wire: boolean): Uint8Array[] | undefined {
  const frame = packet.subarray(HEADER);
  if (packet.length < HEADER + LEAST) return undefined;
  const read = readHeader(packet.subarray(0, HEADER), frame.length);
  if (read === undefined || !within(read.asks, allowed)) return undefined;
  const { asks, clean } = read;
  clean[0]! &= NEEDS_CHECKSUM;
  if (wire) return [Uint8Array.from([...clean, ...frame])];
  if (asks.tso4 || asks.tso6) return segments({ header: clean, frame });
  return [asks.checksum ? completed({ header: clean, frame }) : frame];
}

/** What of the host's bytes for one frame is for the guest, before the filter; none where it is no frame. */
export function arrived(bytes: Uint8Array, allowed: Offloads, wire: boolean): VnetFrame[] {
  const nothing = new Uint8Array(HEADER);
  if (!wire) return [{ header: nothing, frame: bytes }];
  const frame = bytes.subarray(HEADER);
  const read = readHeader(bytes.subarray(0, HEADER), frame.length);
  if (read === undefined) return [];
  const { asks, clean } = read;
  if (!allowed.checksum) clean[0] = 0;
  if (within(asks, allowed)) return [{ header: clean, frame }];
  const whole = { header: read.clean, frame };
  if (asks.tso4 || asks.tso6) {
    return (segments(whole) ?? []).map((each) => ({ header: nothing, frame: each }));
  }
  return [{ header: nothing, frame: completed(whole) }];
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** The receive filter (5.1.6.5.1 to 5.1.6.5.3). */
export class FilterModel {
  readonly modes = [true, false, false, false, false, false];
  readonly vlans = new Set<number>();
  byVlan = false;
  mac: Uint8Array;
  unicast: Uint8Array[] = [];
  multicast: Uint8Array[] = [];

  constructor(mac: Uint8Array) {
    this.mac = mac;
  }

  passes(frame: Uint8Array): boolean {
    const [promiscuous, allMulticast, allUnicast, noMulticast, noUnicast, noBroadcast] = this.modes;
    if (frame.length < LEAST) return false;
    if (promiscuous) return true;
    if (this.byVlan && frame.length >= 18 && u16(frame, 12) === 0x8100) {
      const vlan = u16(frame, 14) & 0xfff;
      if (vlan !== 0 && !this.vlans.has(vlan)) return false;
    }
    const to = frame.subarray(0, 6);
    if (to.every((byte) => byte === 0xff)) return !noBroadcast;
    const group = (to[0]! & 1) === 1;
    if (group ? noMulticast : noUnicast) return false;
    if (group ? allMulticast : allUnicast) return true;
    if (!group && same(to, this.mac)) return true;
    return (group ? this.multicast : this.unicast).some((address) => same(address, to));
  }
}
