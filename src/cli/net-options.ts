/** The argument of `tsvm run --net`: `KIND[=WHAT][,key=value…]`. */
import { LARGEST_MTU, LEAST_MTU } from '../devices/net/protocol.ts';
import { formatMacAddress, parseMacAddress } from '../devices/net/mac-address.ts';
import type { CardOptions, NetworkOptions } from '../vmm/network-types.ts';
import { parseSize } from '../manager/sizes.ts';
import { count, read, split, switched } from './device-options.ts';
import { UsageError } from './errors.ts';

/** What IFNAMSIZ leaves room for. */
const INTERFACE_LIMIT = 15;
const QUEUE_LIMIT = 16;

/** `none` is a choice too: of no network, where there would be one by itself. */
export type NetChoice = NetworkOptions | 'none';

function interfaceName(value: string): string {
  if (!/^[^\s/%:]+$/.test(value) || Buffer.byteLength(value) > INTERFACE_LIMIT || /^\.{1,2}$/.test(value)) {
    throw new RangeError(
      `'${value}' is no interface's name: 1 to ${INTERFACE_LIMIT} characters without / and :`,
    );
  }
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
    default:
      throw new RangeError(`'${kind}' is no kind of network; there are none, tap and stream`);
  }
}

/** @throws UsageError for `none` together with others */
export function networksOf(choices: readonly NetChoice[]): NetworkOptions[] {
  const networks = choices.filter((choice) => choice !== 'none');
  if (networks.length > 0 && networks.length < choices.length)
    throw new UsageError("--net none does not go together with other --net's");
  return networks;
}
