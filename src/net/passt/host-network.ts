/** What of the host's network decides on how passt is called. */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';

/** For each family whether the host has a route to everywhere. */
export type DefaultRoutes = { readonly ip4: boolean; readonly ip6: boolean };

/** Linux, include/uapi/linux/route.h and ipv6_route.h */
const RTF_UP = 0x1;
const RTF_REJECT = 0x200;

/** From the text of /proc/net/route and /proc/net/ipv6_route. */
export function defaultRoutes(ip4: string, ip6: string): DefaultRoutes {
  const rows = (text: string): string[][] => text.split('\n').map((line) => line.trim().split(/\s+/));
  const usable = (flags: string | undefined): boolean => {
    const bits = Number.parseInt(flags ?? '0', 16);
    return (bits & RTF_UP) !== 0 && (bits & RTF_REJECT) === 0;
  };
  return {
    // Iface Destination Gateway Flags RefCnt Use Metric Mask
    ip4: rows(ip4).some((row) => row[1] === '00000000' && row[7] === '00000000' && usable(row[3])),
    // destination length source length next-hop metric refcount use flags device
    ip6: rows(ip6).some(
      (row) => row[0] === '0'.repeat(32) && row[1] === '00' && row[9] !== 'lo' && usable(row[8]),
    ),
  };
}

/** The addresses of resolvers in the text of a resolv.conf(5). */
export function nameServers(text: string): string[] {
  return [...text.matchAll(/^nameserver\s+(\S+)/gm)]
    .map(([, address]) => address!)
    .filter((address) => isIP(address.replace(/%.*$/, '')) !== 0);
}

export function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1';
}

/** Where systemd-resolved has the resolvers that its own one on 127.0.0.53 asks. */
const UPSTREAM = '/run/systemd/resolve/resolv.conf';

export type HostNetwork = {
  readonly routes: DefaultRoutes;
  /** those that programs of this host ask */
  readonly resolvers: readonly string[];
  /** those that the host's own resolver asks, where that is known */
  readonly upstream: readonly string[];
};

export function hostNetwork(): HostNetwork {
  return {
    routes: defaultRoutes(textOf('/proc/net/route'), textOf('/proc/net/ipv6_route')),
    resolvers: nameServers(textOf('/etc/resolv.conf')),
    upstream: nameServers(textOf(UPSTREAM)),
  };
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
