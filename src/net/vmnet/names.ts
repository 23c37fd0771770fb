/** What the stations of a network are called. */
import { formatMac, type Address } from './packet.ts';
import type { Leases } from './leases.ts';

/** Names that a station of a port may give itself by DHCP: its own one, and those of its containers. */
const NAME_LIMIT = 63;

/** A label of a host's name (RFC 1123, 2.1), in lower case; undefined where the text is none. */
export function hostLabel(text: string): string | undefined {
  // A full name says what its first label does.
  const label = text.toLowerCase().split('.')[0] ?? '';
  return /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/.test(label) && label.length <= NAME_LIMIT ? label : undefined;
}

/** The VM behind a port, as its owner names it. */
export type Member = { readonly port: number; readonly mac: string; readonly name: string | undefined };

/**
 * What the owner of a VM calls it goes before what a guest calls itself, and of two of a kind the first one has the
 * name until it leaves.
 */
export class Names {
  readonly #leases: Leases;
  readonly #members = new Map<number, Member>();
  /** what stations have said by DHCP, by MAC */
  readonly #claims = new Map<string, { readonly port: number; readonly name: string }>();

  constructor(leases: Leases) {
    this.#leases = leases;
  }

  /** Returns whether the name is its own: another VM may have it. */
  join(member: Member): boolean {
    const taken = [...this.#members.values()].some(({ name }) => name !== undefined && name === member.name);
    this.#members.set(member.port, taken ? { ...member, name: undefined } : member);
    return !taken;
  }

  leave(port: number): void {
    this.#members.delete(port);
    for (const [mac, claim] of this.#claims) if (claim.port === port) this.#claims.delete(mac);
  }

  /** A station calls itself so. As many may as have leases. */
  claim(mac: Uint8Array, port: number, text: string): void {
    const name = hostLabel(text);
    const key = formatMac(mac);
    this.#claims.delete(key);
    if (name !== undefined && this.#leases.of(key) !== undefined) this.#claims.set(key, { port, name });
    // A lease that went to make room for another one takes the name with it.
    for (const other of this.#claims.keys())
      if (this.#leases.of(other) === undefined) this.#claims.delete(other);
  }

  /** What the host calls a station. */
  given(mac: string): string | undefined {
    for (const member of this.#members.values()) if (member.mac === mac) return member.name;
    return undefined;
  }

  /** The address of a name, with its port; no address where the station has not got one yet. */
  find(name: string): { readonly port: number; readonly address: Address | undefined } | undefined {
    for (const member of this.#members.values()) {
      if (member.name === name) return { port: member.port, address: this.#addressOf(member.mac) };
    }
    for (const [mac, claim] of this.#claims) {
      const named = this.given(mac) !== undefined;
      if (claim.name === name && !named) return { port: claim.port, address: this.#addressOf(mac) };
    }
    return undefined;
  }

  /** The name of an address. */
  nameAt(address: Address): string | undefined {
    const lease = this.#leases.at(address);
    if (lease?.bound !== true) return undefined;
    const given = this.given(lease.mac);
    if (given !== undefined) return given;
    const claim = this.#claims.get(lease.mac)?.name;
    return claim !== undefined && this.find(claim)?.address === address ? claim : undefined;
  }

  #addressOf(mac: string): Address | undefined {
    const lease = this.#leases.of(mac);
    return lease?.bound === true ? lease.address : undefined;
  }
}
