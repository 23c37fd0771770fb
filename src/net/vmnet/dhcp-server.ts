/** The DHCP server of a network (RFC 2131). It is the only one there, and gives no router: other cards lead outside. */
import {
  addressBytes,
  DHCP_OPTION,
  DHCP_TYPE,
  wordBytes,
  writeDhcp,
  type DhcpReply,
  type DhcpRequest,
} from './dhcp-message.ts';
import type { Lease, Leases } from './leases.ts';
import { ANY_ADDRESS, BROADCAST_ADDRESS, formatMac, type Address } from './packet.ts';
import { encodeName } from './dns-message.ts';

/** A VM may be off the net for a while, but what a crashed one had is wanted again. */
export const LEASE_S = 12 * 3600;

export type DhcpServerOptions = {
  readonly leases: Leases;
  /** such as `lan.internal` */
  readonly domain: string;
  /** what the host calls a station, if anything */
  readonly nameOf: (mac: string) => string | undefined;
};

export type DhcpAnswer = {
  readonly data: Buffer;
  /** where it goes to: all bits set for a broadcast */
  readonly destination: Address;
};

export class DhcpServer {
  readonly #options: DhcpServerOptions;

  constructor(options: DhcpServerOptions) {
    this.#options = options;
  }

  /**
   * What a station's message comes to.
   * @param now in seconds
   * @returns undefined where nothing is to be said
   */
  answer(request: DhcpRequest, port: number, now: number): DhcpAnswer | undefined {
    // Nobody relays here.
    if (request.relay !== ANY_ADDRESS) return undefined;
    const { leases } = this.#options;
    const mac = formatMac(request.mac);
    switch (request.type) {
      case DHCP_TYPE.discover: {
        const lease = leases.offer(mac, port, request.requested, now);
        return lease && this.#grant(DHCP_TYPE.offer, request, lease);
      }
      case DHCP_TYPE.request:
        return this.#request(request, mac, port, now);
      case DHCP_TYPE.release:
        leases.release(mac, request.clientAddress, now);
        return undefined;
      case DHCP_TYPE.decline:
        leases.decline(mac, request.requested, now);
        return undefined;
      case DHCP_TYPE.inform:
        return this.#send(
          { type: DHCP_TYPE.ack, request, address: ANY_ADDRESS, options: this.#settings() },
          request.clientAddress,
        );
      default:
        return undefined;
    }
  }

  /** RFC 2131, 4.3.2: a station that selects, comes back with its address, or renews it. */
  #request(request: DhcpRequest, mac: string, port: number, now: number): DhcpAnswer | undefined {
    const { leases } = this.#options;
    if (request.serverId !== ANY_ADDRESS && request.serverId !== leases.subnet.server) return undefined;
    const address = request.requested === ANY_ADDRESS ? request.clientAddress : request.requested;
    const lease = leases.take(mac, port, address, now);
    if (lease !== undefined) return this.#grant(DHCP_TYPE.ack, request, lease);
    return this.#send({ type: DHCP_TYPE.nak, request, address: ANY_ADDRESS, options: [] }, BROADCAST_ADDRESS);
  }

  #grant(type: number, request: DhcpRequest, lease: Lease): DhcpAnswer {
    const name = this.#options.nameOf(lease.mac);
    const options: DhcpReply['options'] = [
      [DHCP_OPTION.leaseTime, wordBytes(LEASE_S)],
      [DHCP_OPTION.renewalTime, wordBytes(LEASE_S / 2)],
      [DHCP_OPTION.rebindingTime, wordBytes((LEASE_S / 8) * 7)],
      ...this.#settings(),
      ...(name === undefined ? [] : [[DHCP_OPTION.hostName, Buffer.from(name)] as const]),
    ];
    const destination =
      request.clientAddress !== ANY_ADDRESS
        ? request.clientAddress
        : request.broadcast
          ? BROADCAST_ADDRESS
          : lease.address;
    return this.#send({ type, request, address: lease.address, options }, destination);
  }

  #settings(): DhcpReply['options'] {
    const { leases, domain } = this.#options;
    const { mask, broadcast, server } = leases.subnet;
    return [
      [DHCP_OPTION.subnetMask, addressBytes(mask)],
      [DHCP_OPTION.broadcast, addressBytes(broadcast)],
      [DHCP_OPTION.nameServers, addressBytes(server)],
      [DHCP_OPTION.domainName, Buffer.from(domain)],
      [DHCP_OPTION.domainSearch, encodeName(domain)],
    ];
  }

  #send(reply: Omit<DhcpReply, 'server'>, destination: Address): DhcpAnswer {
    return { data: writeDhcp({ ...reply, server: this.#options.leases.subnet.server }), destination };
  }
}
