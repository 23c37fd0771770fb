/** Which station of a network has which IPv4 address, and for how long. */
import { createHash } from 'node:crypto';
import type { Address } from './packet.ts';

/** A network's addresses: its name decides, so that it is the same one after a restart. */
export type Subnet = {
  /** with the host part 0 */
  readonly base: Address;
  readonly prefix: number;
  readonly mask: Address;
  readonly broadcast: Address;
  /** of the switch: it answers DHCP and DNS there */
  readonly server: Address;
};

export type Lease = {
  readonly mac: string;
  readonly address: Address;
  /** of the switch */
  readonly port: number;
  /** seconds of the table's clock */
  readonly expires: number;
  /** the station has said that it takes it; else it has been offered only */
  readonly bound: boolean;
};

const PREFIX = 20;
const HOSTS = 2 ** (32 - PREFIX);
/** Some are the network's own: the first few, and the last one. */
const FIRST_HOST = 16;
const LAST_HOST = HOSTS - 2;
const LEASE_LIMIT = 1024;
/** Stations behind one port: a guest may have containers, but not all addresses. */
const PORT_LIMIT = 32;
const OFFER_S = 60;
/** How long nobody gets an address that a station has found to be in use. */
const DECLINED_S = 600;
const DECLINED_LIMIT = 64;

/** One of 4096 networks in 10.0.0.0/8 (RFC 1918), by the name. */
export function subnetOf(name: string): Subnet {
  const mask = (0xffffffff << (32 - PREFIX)) >>> 0;
  const digest = createHash('sha256').update(`vmnet ${name}`).digest();
  const base = (0x0a000000 + (digest.readUInt32BE(0) % 2 ** (PREFIX - 8)) * HOSTS) >>> 0;
  return { base, prefix: PREFIX, mask, broadcast: (base | ~mask) >>> 0, server: base + 1 };
}

/** Bounded, whatever stations ask for. An address follows from the MAC, but where another one has it. */
export class Leases {
  readonly subnet: Subnet;
  readonly #seconds: number;
  readonly #byMac = new Map<string, Lease>();
  readonly #byAddress = new Map<Address, Lease>();
  /** until when */
  readonly #declined = new Map<Address, number>();

  /** @param seconds of a lease */
  constructor(subnet: Subnet, seconds: number) {
    this.subnet = subnet;
    this.#seconds = seconds;
  }

  get size(): number {
    return this.#byMac.size;
  }

  all(): readonly Lease[] {
    return [...this.#byMac.values()];
  }

  of(mac: string): Lease | undefined {
    return this.#byMac.get(mac);
  }

  at(address: Address): Lease | undefined {
    return this.#byAddress.get(address);
  }

  /**
   * An address for a station that asks for one: the one that it had, else the one that it wants if that is free, else
   * one that follows from its MAC. Undefined where there is none for it.
   */
  offer(mac: string, port: number, wanted: Address, now: number): Lease | undefined {
    const known = this.#byMac.get(mac);
    if (known !== undefined)
      return this.#set({ ...known, port, expires: Math.max(known.expires, now + OFFER_S) });
    if (!this.#makeRoom(port, now)) return undefined;
    const address = this.#isFree(wanted, now) ? wanted : this.#choose(mac, now);
    return address === undefined
      ? undefined
      : this.#set({ mac, address, port, expires: now + OFFER_S, bound: false });
  }

  /** The station takes the address that was offered, or has it already. Undefined where it may not. */
  take(mac: string, port: number, address: Address, now: number): Lease | undefined {
    const lease = this.offer(mac, port, address, now);
    if (lease?.address !== address) return undefined;
    return this.#set({ ...lease, expires: now + this.#seconds, bound: true });
  }

  /** The station gives it back. It gets the same one when it comes again, if nobody needs it meanwhile. */
  release(mac: string, address: Address, now: number): void {
    const lease = this.#byMac.get(mac);
    if (lease?.address === address) this.#set({ ...lease, expires: now, bound: false });
  }

  /** The station has found its address to be in use. */
  decline(mac: string, address: Address, now: number): void {
    const lease = this.#byMac.get(mac);
    if (lease?.address !== address) return;
    this.#remove(lease);
    for (const [other, until] of this.#declined) if (until <= now) this.#declined.delete(other);
    if (this.#declined.size < DECLINED_LIMIT) this.#declined.set(address, now + DECLINED_S);
  }

  /** Takes what was remembered, as far as it makes sense. A station goes on with an address without asking again. */
  restore({ mac, address, expires }: Pick<Lease, 'mac' | 'address' | 'expires'>, now: number): void {
    if (this.size >= LEASE_LIMIT || this.#byMac.has(mac) || !this.#isFree(address, now)) return;
    // A clock that was set back is no reason to keep one for longer.
    this.#set({
      mac,
      address,
      port: -1,
      expires: Math.min(expires, now + this.#seconds),
      bound: expires > now,
    });
  }

  #set(lease: Lease): Lease {
    this.#byMac.set(lease.mac, lease);
    this.#byAddress.set(lease.address, lease);
    return lease;
  }

  #remove(lease: Lease): void {
    this.#byMac.delete(lease.mac);
    this.#byAddress.delete(lease.address);
  }

  #isFree(address: Address, now: number): boolean {
    const host = address - this.subnet.base;
    if (host < FIRST_HOST || host > LAST_HOST || this.#byAddress.has(address)) return false;
    return (this.#declined.get(address) ?? -Infinity) <= now;
  }

  #choose(mac: string, now: number): Address | undefined {
    const places = LAST_HOST - FIRST_HOST + 1;
    const start = createHash('sha256').update(mac).digest().readUInt32BE(0) % places;
    for (let i = 0; i < places; i++) {
      const address = this.subnet.base + FIRST_HOST + ((start + i) % places);
      if (this.#isFree(address, now)) return address;
    }
    return undefined;
  }

  /** Forgets the leases that have been over for longest, where there are too many. */
  #makeRoom(port: number, now: number): boolean {
    const ofPort = [...this.#byMac.values()].filter((lease) => lease.port === port);
    if (ofPort.length >= PORT_LIMIT && !this.#forgetOldest(ofPort, now)) return false;
    return this.size < LEASE_LIMIT || this.#forgetOldest([...this.#byMac.values()], now);
  }

  #forgetOldest(leases: readonly Lease[], now: number): boolean {
    const over = leases.filter((lease) => lease.expires <= now);
    const oldest = over.reduce<Lease | undefined>(
      (least, lease) => (least === undefined || lease.expires < least.expires ? lease : least),
      undefined,
    );
    if (oldest !== undefined) this.#remove(oldest);
    return oldest !== undefined;
  }
}
