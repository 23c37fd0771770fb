/** Ports of the host that lead to ports of a guest, as a user writes them. */
import { isIP } from 'node:net';

/** One port of the host, or a range of them, that leads to as many ports of the guest. */
export type PortForward = {
  readonly protocol: 'tcp' | 'udp';
  /** address of the host to listen on, an IPv4 or IPv6 address; `*` for all of both families */
  readonly address: string;
  /** first port of the host; 0 for a free one, where `count` is 1 */
  readonly host: number;
  /** first port of the guest */
  readonly guest: number;
  /** how many ports in a row, 1 to 65535 */
  readonly count: number;
};

export const DEFAULT_ADDRESS = '127.0.0.1';

const LAST_PORT = 65535;
const FORM =
  '[ADDR:]HOST:GUEST[/udp], such as 8080:80, 0.0.0.0:2222:22, [::1]:0:22 or 6000-6010:6000-6010/udp';

type Range = { readonly first: number; readonly count: number };

/** Reads `[ADDR:]HOST:GUEST[/tcp|/udp]`, where HOST and GUEST are ports or ranges. @throws RangeError saying what is wrong */
export function parseForward(text: string): PortForward {
  const match = /^(?:(\[[^\]]*\]|[^:[\]]*):)?([^:/]*):([^:/]*)(?:\/([^/]*))?$/.exec(text);
  if (match === null) throw new RangeError(`'${text}' is no port forward: ${FORM}`);
  const [, where, hostText = '', guestText = '', protocol = 'tcp'] = match;
  if (protocol !== 'tcp' && protocol !== 'udp') throw new RangeError(`'${protocol}' is neither tcp nor udp`);
  const host = range(hostText, 0, 'host');
  const guest = range(guestText, 1, 'guest');
  if (host.count !== guest.count) {
    throw new RangeError(
      `${host.count} ports of the host cannot lead to ${guest.count} of the guest: the ranges need one length`,
    );
  }
  if (host.first === 0 && host.count > 1) throw new RangeError('a range of the host cannot begin at port 0');
  return {
    protocol,
    address: where === undefined ? DEFAULT_ADDRESS : address(where),
    host: host.first,
    guest: guest.first,
    count: host.count,
  };
}

/** As a user writes it, and with what was left out. */
export function formatForward({ protocol, address: where, host, guest, count }: PortForward): string {
  const ports = (first: number): string => (count === 1 ? `${first}` : `${first}-${first + count - 1}`);
  return `${formatEndpoint(where, ports(host))}:${ports(guest)}${protocol === 'udp' ? '/udp' : ''}`;
}

/** `127.0.0.1:80`, `[::1]:80` */
export function formatEndpoint(where: string, port: number | string): string {
  return `${where.includes(':') ? `[${where}]` : where}:${port}`;
}

/**
 * Two forwards that want one port of the host, for people; undefined where there are none.
 * An address in one and another address in the other are no way out: passt knows a port once for each protocol.
 */
export function findOverlap(forwards: readonly PortForward[]): string | undefined {
  for (const [i, one] of forwards.entries()) {
    for (const other of forwards.slice(0, i)) {
      if (one.protocol !== other.protocol || one.host === 0 || other.host === 0) continue;
      const first = Math.max(one.host, other.host);
      if (first >= Math.min(one.host + one.count, other.host + other.count)) continue;
      return `port ${first} of the host is forwarded twice: by ${formatForward(other)} and ${formatForward(one)}`;
    }
  }
  return undefined;
}

function range(text: string, least: number, whose: string): Range {
  const [, firstText, lastText] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  if (firstText === undefined) {
    throw new RangeError(`'${text}' is no port of the ${whose}: ${FORM}`);
  }
  const first = Number(firstText);
  const last = lastText === undefined ? first : Number(lastText);
  if (first < least || last > LAST_PORT) {
    throw new RangeError(`ports of the ${whose} are ${least} to ${LAST_PORT}, not ${text}`);
  }
  if (last < first) throw new RangeError(`the range ${text} ends before it begins`);
  return { first, count: last - first + 1 };
}

function address(text: string): string {
  const bracketed = text.startsWith('[');
  const plain = bracketed ? text.slice(1, -1) : text;
  if (!bracketed && (plain === '*' || isIP(plain) === 4)) return plain;
  // No zone: a socket that listens needs none.
  if (bracketed && isIP(plain) === 6 && !plain.includes('%')) return plain.toLowerCase();
  throw new RangeError(`'${text}' is no address of the host: 127.0.0.1, [::1], or * for all`);
}
