import { randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import { NetDevice } from '../devices/net/device.ts';
import { formatMacAddress, macAddressFor, parseMacAddress } from '../devices/net/mac-address.ts';
import type { RateLimits } from '../devices/rate-limit.ts';
import { connectUnix } from '../kvm/unix-socket.ts';
import type { NetBackend } from '../net/backend.ts';
import { StreamBackend } from '../net/stream.ts';
import { TapBackend } from '../net/tap.ts';
import type { CardOptions, NetworkCard, NetworkOptions } from './network-types.ts';
import type { VmOptions } from './types.ts';

/** What of a VM's options is about its network. */
export type NetworksOptions = Required<Pick<VmOptions, 'networks' | 'disks' | 'log'>> &
  Pick<VmOptions, 'identity'>;

type Card = {
  readonly options: NetworkOptions;
  readonly backend: NetBackend;
  readonly mac: Uint8Array;
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
        const backend = await openBackend(network, options.log);
        const plugged = network.link ?? true;
        if (!plugged) backend.setCarrier?.(false);
        cards.push({ options: network, backend, mac, plugged });
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
    return this.#cards.map(({ backend, mac, plugged }) => ({
      name: backend.name,
      mac: formatMacAddress(mac),
      link: plugged && backend.link,
      queues: backend.ports.map(({ counters }) => counters),
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

async function openBackend(options: NetworkOptions, log: (line: string) => void): Promise<NetBackend> {
  switch (options.kind) {
    case 'tap':
      return new TapBackend({ ...options, log });
    case 'stream': {
      const { path, mtu } = options;
      return StreamBackend.open({
        name: `stream ${path}`,
        connect: () => connectUnix(path),
        log,
        ...(mtu !== undefined && { mtu }),
      });
    }
  }
}
