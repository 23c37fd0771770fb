/** A network of VMs: the switch with its services, and who is on it. */
import { createHash } from 'node:crypto';
import { decodeGreeting, encodeWelcome } from './greeting.ts';
import { DnsForwarder, type ForwarderOptions } from './forwarder.ts';
import type { LeaseFile } from './lease-file.ts';
import { Leases, subnetOf } from './leases.ts';
import { LEASE_S } from './dhcp-server.ts';
import { Names } from './names.ts';
import { Services } from './services.ts';
import { Switch } from './switch.ts';

/** VMs of one user on one network. */
const PORT_LIMIT = 256;
/** How long a connection may take to say who it is. */
const GREETING_LIMIT_MS = 5000;

export type NetworkOptions = {
  readonly name: string;
  /** keeps leases over restarts; default: they are forgotten */
  readonly leaseFile?: LeaseFile;
  readonly forwarder?: ForwarderOptions;
  readonly log: (line: string) => void;
  /** Called whenever a VM has come or gone, with how many there are. */
  readonly changed?: (size: number) => void;
};

/** `<host>.<network>.internal`; the top-level domain is reserved for private use (ICANN, 2024). */
export function domainOf(network: string): string {
  return `${network}.internal`;
}

/** The switch's address on each of its networks: locally administered, and the same after a restart. */
export function switchMac(network: string): Buffer {
  const digest = createHash('sha256').update(`switch ${network}`).digest();
  return Buffer.concat([Buffer.of(0x52, 0x56), digest.subarray(0, 4)]);
}

export class VmNetwork {
  readonly leases: Leases;
  readonly #options: NetworkOptions;
  readonly #names: Names;
  readonly #switch: Switch;
  readonly #services: Services;
  readonly #forwarder: DnsForwarder;
  /** ports with an uplink */
  readonly #uplinks = new Set<number>();
  /** of those that were let in, the MAC addresses */
  readonly #members = new Map<number, string>();
  /** of those that have not said who they are */
  readonly #strangers = new Map<number, NodeJS.Timeout>();

  constructor(options: NetworkOptions) {
    const { name, leaseFile } = options;
    this.#options = options;
    this.leases = new Leases(subnetOf(name), LEASE_S);
    for (const lease of leaseFile?.read() ?? []) this.leases.restore(lease, seconds());
    this.#names = new Names(this.leases);
    this.#forwarder = new DnsForwarder(options.forwarder);
    const mac = switchMac(name);
    this.#switch = new Switch(mac, {
      received: (frame, port) => this.#services.receive(frame, port),
      greeted: (port, frame) => this.#greeted(port, frame),
      left: (port) => this.#left(port),
    });
    this.#services = new Services({
      mac,
      leases: this.leases,
      names: this.#names,
      domain: domainOf(name),
      askWorld: (port, query) => (this.#uplinks.has(port) ? this.#forwarder.ask(port, query) : undefined),
      send: (port, frame) => this.#switch.send(port, frame),
      now: seconds,
      leased: () => leaseFile?.changed(this.leases),
    });
  }

  /** VMs that are on it. */
  get size(): number {
    return this.#members.size;
  }

  /** Takes a connection. */
  connect(fd: number): void {
    const port = this.#switch.add(fd);
    if (this.#switch.size > PORT_LIMIT) {
      this.#refuse(port, `it has ${PORT_LIMIT} VMs already`);
      return;
    }
    const timer = setTimeout(() => this.#remove(port), GREETING_LIMIT_MS);
    this.#strangers.set(port, timer);
  }

  close(): void {
    for (const timer of this.#strangers.values()) clearTimeout(timer);
    this.#switch.close();
    this.#forwarder.close();
    this.#options.leaseFile?.flush(this.leases);
  }

  #greeted(port: number, bytes: Buffer): boolean {
    const greeting = decodeGreeting(bytes);
    if (typeof greeting === 'string') return this.#refuse(port, greeting);
    const { mac, name, uplink } = greeting;
    if ([...this.#members.values()].includes(mac))
      return this.#refuse(port, `a VM there has the MAC address ${mac}`);
    if (!this.#names.join({ port, mac, name })) {
      this.#names.leave(port);
      return this.#refuse(port, `a VM there is called ${name ?? ''}`);
    }
    clearTimeout(this.#strangers.get(port));
    this.#strangers.delete(port);
    this.#members.set(port, mac);
    if (uplink) this.#uplinks.add(port);
    this.#switch.fix(port, Buffer.from(mac.replaceAll(':', ''), 'hex'));
    this.#switch.reply(port, encodeWelcome({}));
    this.#options.log(`${name ?? mac} has come`);
    this.#options.changed?.(this.size);
    return true;
  }

  #refuse(port: number, error: string): false {
    this.#switch.reply(port, encodeWelcome({ error }));
    this.#remove(port);
    return false;
  }

  #remove(port: number): void {
    this.#switch.remove(port);
    this.#left(port);
  }

  #left(port: number): void {
    clearTimeout(this.#strangers.get(port));
    this.#strangers.delete(port);
    this.#names.leave(port);
    this.#uplinks.delete(port);
    const mac = this.#members.get(port);
    if (!this.#members.delete(port)) return;
    this.#options.log(`${mac ?? ''} has left`);
    this.#options.changed?.(this.size);
  }
}

/** Leases outlive the process: their times are those of a calendar. */
function seconds(): number {
  return Date.now() / 1000;
}
