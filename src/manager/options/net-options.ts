/** The argument of `tsvm run --net`: `KIND[=WHAT][,key=value…]`. */
import { LARGEST_MTU, LEAST_MTU } from '../../devices/net/protocol.ts';
import { formatMacAddress, parseMacAddress } from '../../devices/net/mac-address.ts';
import { findOverlap, type PortForward } from '../../net/forward.ts';
import { hostLabel } from '../../net/vmnet/names.ts';
import { checkVmnetName } from '../../net/vmnet/place.ts';
import type { CardOptions, NetworkOptions, VmnetNetworkOptions } from '../../vmm/network-types.ts';
import { parseSize } from '../sizes.ts';
import { count, read, split, switched } from './device-options.ts';
import { OptionError } from './option-error.ts';

/** What IFNAMSIZ leaves room for. */
const INTERFACE_LIMIT = 15;
const QUEUE_LIMIT = 16;

/** `none` is a choice too: of no network, where there would be one by itself. */
export type NetChoice = NetworkOptions | 'none' | VmnetWithUplink;

/** Two cards: one on a network of VMs, and after it one on the user network. */
type VmnetWithUplink = { readonly kind: 'vmnet-uplink'; readonly vmnet: VmnetNetworkOptions };

/** What `-p` and `--host-access` say of the card on the user network. */
export type UserSettings = { readonly forwards?: readonly PortForward[]; readonly hostAccess?: true };

function interfaceName(value: string): string {
  if (!/^[^\s/%:]+$/.test(value) || Buffer.byteLength(value) > INTERFACE_LIMIT || /^\.{1,2}$/.test(value)) {
    throw new RangeError(
      `'${value}' is no interface's name: 1 to ${INTERFACE_LIMIT} characters without / and :`,
    );
  }
  return value;
}

function hostName(value: string): string {
  if (hostLabel(value) !== value)
    throw new RangeError(`'${value}' is no host's name: letters, digits and dashes`);
  return value;
}

const CARD_KEYS = {
  mac: (value: string) => formatMacAddress(parseMacAddress(value)),
  mtu: count(LEAST_MTU, LARGEST_MTU),
  link: switched,
  bps: (value: string) => parseSize(value),
  pps: count(1, 100_000_000),
} as const;

const TAP_KEYS = { ...CARD_KEYS, bridge: interfaceName, queues: count(1, QUEUE_LIMIT) } as const;

const VMNET_KEYS = { ...CARD_KEYS, uplink: switched, name: hostName } as const;

type CardValues = { mac?: string; mtu?: number; link?: boolean; bps?: number; pps?: number };

function card({ mac, mtu, link, bps, pps }: CardValues): CardOptions & { readonly mtu?: number } {
  return {
    ...(mac !== undefined && { mac }),
    ...(mtu !== undefined && { mtu }),
    ...(link !== undefined && { link }),
    ...((bps !== undefined || pps !== undefined) && {
      rate: {
        ...(bps !== undefined && { bytesPerSecond: bps }),
        ...(pps !== undefined && { packetsPerSecond: pps }),
      },
    }),
  };
}

/** @throws RangeError naming what is wrong */
export function parseNet(text: string): NetChoice {
  const [first = '', ...words] = split(text);
  const at = first.indexOf('=');
  const kind = at < 0 ? first : first.slice(0, at);
  const what = at < 0 ? undefined : first.slice(at + 1);
  switch (kind) {
    case 'none':
      if (text !== 'none') throw new RangeError("'none' stands alone");
      return 'none';
    case 'tap': {
      const { bridge, queues, ...rest } = read(words, TAP_KEYS);
      return {
        kind,
        ...card(rest),
        ...(what !== undefined && { tap: interfaceName(what) }),
        ...(bridge !== undefined && { bridge }),
        ...(queues !== undefined && { queues }),
      };
    }
    case 'stream':
      if (what === undefined || what === '') throw new RangeError('stream=SOCKET: the path of a unix socket');
      return { kind, path: what, ...card(read(words, CARD_KEYS)) };
    case 'user':
      if (what !== undefined) throw new RangeError("'user' takes no name");
      return { kind, ...card(read(words, CARD_KEYS)) };
    case 'vmnet':
      return vmnet(what, words);
    default:
      throw new RangeError(`'${kind}' is no kind of network; there are none, user, vmnet, tap and stream`);
  }
}

function vmnet(network: string | undefined, words: readonly string[]): NetChoice {
  if (network === undefined || network === '')
    throw new RangeError('vmnet=NAME: the name of a network of VMs');
  const { uplink = false, name, ...rest } = read(words, VMNET_KEYS);
  const options: VmnetNetworkOptions = {
    kind: 'vmnet',
    network: checkVmnetName(network),
    ...(name !== undefined && { name }),
    ...card(rest),
  };
  return uplink ? { kind: 'vmnet-uplink', vmnet: options } : options;
}

/** @throws OptionError for what does not go together */
export function networksOf(choices: readonly NetChoice[], settings: UserSettings = {}): NetworkOptions[] {
  const networks = choices
    .filter((choice) => choice !== 'none')
    .flatMap((choice) =>
      choice.kind === 'vmnet-uplink' ? [choice.vmnet, { kind: 'user' } as const] : [choice],
    );
  if (choices.includes('none') && choices.length > 1)
    throw new OptionError("--net none does not go together with other --net's");
  const users = networks.filter(({ kind }) => kind === 'user').length;
  if (users > 1) throw new OptionError('--net user, or an uplink, is wanted once at most');
  const { forwards = [], hostAccess } = settings;
  if (users === 0 && (forwards.length > 0 || hostAccess === true)) {
    const option = forwards.length > 0 ? '--publish' : '--host-access';
    throw new OptionError(`${option} needs a card on the user network`, 'add --net user');
  }
  const overlap = findOverlap(forwards);
  if (overlap !== undefined) throw new OptionError(overlap);
  return networks.map((network) =>
    network.kind !== 'user'
      ? network
      : { ...network, ...(forwards.length > 0 && { forwards }), ...(hostAccess === true && { hostAccess }) },
  );
}
