import { randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import { NetDevice } from '../devices/net/device.ts';
import { formatMacAddress, macAddressFor, parseMacAddress } from '../devices/net/mac-address.ts';
import type { RateLimits } from '../devices/rate-limit.ts';
import { connectUnix } from '../kvm/unix-socket.ts';
import type { NetBackend } from '../net/backend.ts';
import { StreamBackend } from '../net/stream.ts';
import type { PortForward } from '../net/forward.ts';
import { TapBackend } from '../net/tap.ts';
import { openUserNetwork } from '../net/user-network.ts';
import { openVmnet } from '../net/vmnet-network.ts';
import type { CardOptions, NetworkCard, NetworkOptions } from './network-types.ts';
import type { VmOptions } from './types.ts';

/** What of a VM's options is about its network. */
export type NetworksOptions = Required<Pick<VmOptions, 'networks' | 'disks' | 'log'>> &
  Pick<VmOptions, 'identity'> & {
    /** whether programs that serve networks are started by keepers, since this process will not be allowed to */
    readonly keepers?: boolean;
  };

type Card = {
  readonly options: NetworkOptions;
  readonly backend: NetBackend;
  readonly mac: Uint8Array;
  readonly forwards: readonly PortForward[];
  /** whether the cable is plugged in; kept over reboots of the guest */
  plugged: boolean;
};

/** The host's end of a VM's network cards. It outlives the devices of one boot. */
export class Networks {
  readonly #cards: readonly Card[];
  /** of the board of now */
  #devices: readonly NetDevice[] = [];

  /**
   * Opens all back ends; nothing is left open where one of them cannot be.
   * @throws NetworkError, KvmError, RangeError
   */
  static async open(options: NetworksOptions): Promise<Networks> {
    const identity = identityOf(options);
    const cards: Card[] = [];
    try {
      for (const [index, network] of options.networks.entries()) {
        const mac = network.mac === undefined ? macAddressFor(identity, index) : parseMacAddress(network.mac);
        const { backend, forwards = [] } = await openBackend(network, mac, options);
        const plugged = network.link ?? true;
        if (!plugged) backend.setCarrier?.(false);
        cards.push({ options: network, backend, mac, forwards, plugged });
      }
      return new Networks(cards);
    } catch (error) {
      await Promise.all(cards.map(({ backend }) => backend.close()));
      throw error;
    }
  }

  private constructor(cards: readonly Card[]) {
    this.#cards = cards;
  }

  get cards(): readonly NetworkCard[] {
    return this.#cards.map(({ backend, mac, forwards, plugged }) => ({
      name: backend.name,
      mac: formatMacAddress(mac),
      link: plugged && backend.link,
      queues: backend.ports.map(({ counters }) => counters),
      forwards,
    }));
  }

  /** New devices for a new board. */
  devices(): readonly NetDevice[] {
    this.#devices = this.#cards.map(({ options, backend, mac, plugged }, index) => {
      const limits = limitsOf(options);
      const rate = limits && { transmit: limits, receive: limits };
      return new NetDevice({ name: `net${index}`, backend, mac, link: plugged, ...(rate && { rate }) });
    });
    return this.#devices;
  }

  /** @throws RangeError where there is no such card */
  setLink(index: number, up: boolean): void {
    const card = this.#cards[index];
    if (card === undefined)
      throw new RangeError(`the VM has ${this.#cards.length} network cards, and no card ${index}`);
    card.plugged = up;
    this.#devices[index]?.setLink(up);
  }

  /** What is at the other end of the cables does not know a guest that goes on here (5.1.6.5.4): it is asked to say so. */
  announce(): void {
    for (const device of this.#devices) device.announce();
  }

  async close(): Promise<void> {
    await Promise.all(this.#cards.map(({ backend }) => backend.close()));
  }
}

/** A VM is known by its disk; one that keeps nothing is another one each time. */
function identityOf({ identity, disks }: NetworksOptions): string {
  if (identity !== undefined) return identity;
  const disk = disks.find(({ readOnly = false }) => !readOnly);
  return disk === undefined ? randomUUID() : resolve(disk.path);
}

function limitsOf({ rate }: CardOptions): RateLimits | undefined {
  if (rate === undefined) return undefined;
  const { bytesPerSecond, packetsPerSecond } = rate;
  return {
    bytes: bytesPerSecond === undefined ? undefined : { rate: bytesPerSecond },
    operations: packetsPerSecond === undefined ? undefined : { rate: packetsPerSecond },
  };
}

async function openBackend(
  options: NetworkOptions,
  mac: Uint8Array,
  { networks, keepers = false, log }: NetworksOptions,
): Promise<{ readonly backend: NetBackend; readonly forwards?: readonly PortForward[] }> {
  switch (options.kind) {
    case 'tap':
      return { backend: new TapBackend({ ...options, log }) };
    case 'stream': {
      const { path, mtu } = options;
      const name = `stream ${path}`;
      const connect = (): number => connectUnix(path);
      return { backend: await StreamBackend.open({ name, connect, log, ...(mtu !== undefined && { mtu }) }) };
    }
    case 'user':
      if (networks.filter(({ kind }) => kind === 'user').length > 1) {
        throw new RangeError('a VM has one network card of the kind user at most');
      }
      return openUserNetwork({ ...options, name: 'network user', keeper: keepers, log });
    case 'vmnet': {
      // A guest that reaches the world by another card asks for its names here too.
      const uplink = networks.some(({ kind }) => kind !== 'vmnet');
      return {
        backend: await openVmnet({ ...options, mac: formatMacAddress(mac), uplink, keeper: keepers, log }),
      };
    }
  }
}
