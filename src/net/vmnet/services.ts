/** What the switch itself is on its network: a station that answers ARP, ping, DHCP, DNS and LLMNR. */
import { DHCP_PORT, DHCP_TYPE, readDhcp } from './dhcp-message.ts';
import { DhcpServer } from './dhcp-server.ts';
import { DNS_PORT } from './dns-message.ts';
import type { Leases } from './leases.ts';
import { NameServer, type AskWorld } from './name-server.ts';
import type { Names } from './names.ts';
import {
  answerArp,
  answerPing,
  BROADCAST,
  BROADCAST_ADDRESS,
  readUdp,
  udpFrame,
  type Address,
  type Datagram,
} from './packet.ts';

/** RFC 4795, 2: 224.0.0.252 */
const LLMNR = { port: 5355, group: 0xe00000fc } as const;

/** Frames for us that are longer are none that we answer. */
const LONGEST = 2048;

export type ServiceOptions = {
  /** the station's own address */
  readonly mac: Buffer;
  readonly leases: Leases;
  readonly names: Names;
  readonly domain: string;
  readonly askWorld: AskWorld;
  /** Sends a frame, without an offload header, to whom it is for. */
  readonly send: (port: number, frame: Buffer) => void;
  /** seconds of a clock that never goes back */
  readonly now: () => number;
  /** Called after messages that may have changed a lease. */
  readonly leased?: () => void;
};

export class Services {
  readonly #options: ServiceOptions;
  readonly #dhcp: DhcpServer;
  readonly #dns: NameServer;

  constructor(options: ServiceOptions) {
    const { leases, names, domain, askWorld } = options;
    this.#options = options;
    this.#dhcp = new DhcpServer({ leases, domain, nameOf: (mac) => names.given(mac) });
    this.#dns = new NameServer({ names, subnet: leases.subnet, domain }, askWorld);
  }

  /**
   * A frame for this station, or for all or a group.
   * @param frame without an offload header; not kept
   */
  receive(frame: Buffer, port: number): void {
    if (frame.length > LONGEST || frame.length < 14) return;
    const { mac, leases } = this.#options;
    const { server } = leases.subnet;
    const reply = answerArp(frame, server, mac) ?? answerPing(frame, server, mac);
    if (reply !== undefined) {
      this.#options.send(port, reply);
      return;
    }
    const datagram = readUdp(frame);
    if (datagram === undefined) return;
    const { destination, destinationPort } = datagram;
    const forUs = destination === server;
    if (destinationPort === DHCP_PORT.server && (forUs || destination === BROADCAST_ADDRESS))
      this.#dhcpMessage(datagram, port);
    else if (destinationPort === DNS_PORT && forUs) this.#query(datagram, port);
    else if (destinationPort === LLMNR.port && destination === LLMNR.group)
      this.#multicastQuery(datagram, port);
  }

  #dhcpMessage(datagram: Datagram, port: number): void {
    const { now, names, leases, mac, send } = this.#options;
    const request = readDhcp(datagram.data);
    // A station asks for itself.
    if (request?.mac.equals(datagram.sourceMac) !== true) return;
    const answer = this.#dhcp.answer(request, port, now());
    if (request.type === DHCP_TYPE.request) names.claim(request.mac, port, request.hostName);
    if (request.type !== DHCP_TYPE.discover) this.#options.leased?.();
    if (answer === undefined) return;
    const everybody = answer.destination === BROADCAST_ADDRESS;
    const frame = udpFrame({
      sourceMac: mac,
      destinationMac: everybody ? BROADCAST : request.mac,
      source: leases.subnet.server,
      destination: answer.destination,
      sourcePort: DHCP_PORT.server,
      destinationPort: DHCP_PORT.client,
      data: answer.data,
    });
    send(port, frame);
  }

  #query(datagram: Datagram, port: number): void {
    const back = this.#wayBack(datagram, port);
    const answer = this.#dns.answer(datagram.data, port);
    if (answer instanceof Promise) void answer.then((data) => data && back(data));
    else if (answer !== undefined) back(answer);
  }

  #multicastQuery(datagram: Datagram, port: number): void {
    const answer = this.#dns.answerMulticast(datagram.data, port);
    if (answer !== undefined) this.#wayBack(datagram, port)(answer);
  }

  /** Keeps what it needs of the frame, whose memory is another's soon. */
  #wayBack(datagram: Datagram, port: number): (data: Buffer) => void {
    const { mac, leases, send } = this.#options;
    const destinationMac = Buffer.from(datagram.sourceMac);
    const { source: destination, sourcePort: destinationPort, destinationPort: sourcePort } = datagram;
    const source: Address = leases.subnet.server;
    return (data) =>
      send(
        port,
        udpFrame({ sourceMac: mac, destinationMac, source, destination, sourcePort, destinationPort, data }),
      );
  }
}
