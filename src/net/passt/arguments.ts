import { formatForward, type PortForward } from '../forward.ts';
import { NetworkError } from '../network-error.ts';
import { isLoopback, type HostNetwork } from './host-network.ts';
import type { PasstProgram } from './program.ts';

export type PasstSettings = {
  /** with ports of the host that are known */
  readonly forwards: readonly PortForward[];
  /** the guest may reach what listens on the host's loopback, by the address of its gateway */
  readonly hostAccess: boolean;
  /** what DHCP and router advertisements tell the guest, in bytes */
  readonly mtu: number;
};

/** The gateway's, the same after each start of passt: guests remember it. Locally administered. */
const GATEWAY_MAC = '52:56:00:00:00:02';
/** What a guest gets on a host that has no route of its own to take after (private, RFC 1918). */
const OWN_NETWORK = { address: '10.0.2.15', bits: '24', gateway: '10.0.2.2' } as const;
/** Led to the host's own resolver. Link-local, so nobody else's (RFC 3927). */
const RESOLVER = '169.254.1.1';

/**
 * @param fd what the socket's number is in passt
 * @returns the arguments, and what to tell the user
 * @throws NetworkError where this passt cannot do what is asked for
 */
export function passtArguments(
  program: Omit<PasstProgram, 'path'>,
  host: HostNetwork,
  settings: PasstSettings,
  fd: number,
): { readonly args: readonly string[]; readonly notes: readonly string[] } {
  const { args: resolving, notes: aboutNames } = nameArguments(program, host, settings.hostAccess);
  const notes = [...aboutNames, ...datagramNotes(program, settings)];
  const args = [
    '--foreground',
    ...(program.stderrOption ? ['--stderr'] : []),
    ...['--fd', `${fd}`],
    ...['--mtu', `${settings.mtu}`],
    ...['--mac-addr', GATEWAY_MAC],
    ...routeArguments(host),
    ...loopbackArguments(program, settings.hostAccess),
    ...resolving,
    ...forwardArguments(settings.forwards, 'tcp', '--tcp-ports'),
    ...forwardArguments(settings.forwards, 'udp', '--udp-ports'),
  ];
  return { args, notes };
}

/**
 * By itself passt gives the guest the host's own addresses, and nothing of a family without a default route. IPv4 the
 * guest has in any case: ports are forwarded to it, and the host may get a route while the guest runs.
 */
function routeArguments({ routes }: HostNetwork): string[] {
  if (routes.ip4) return [];
  const { address, bits, gateway } = OWN_NETWORK;
  return [
    // An interface for IPv4 alone is one that sockets to the outside are bound to.
    ...(routes.ip6 ? ['--outbound-if4', 'lo'] : ['--interface', 'lo']),
    ...['--address', address, '--netmask', bits, '--gateway', gateway],
  ];
}

function loopbackArguments(program: Omit<PasstProgram, 'path'>, hostAccess: boolean): string[] {
  if (hostAccess) return [];
  if (!program.noMapGateway) {
    throw new NetworkError(
      'ENOTSUP',
      "the passt of this host cannot keep a guest from the host's loopback",
      'allow it with --host-access, or install a newer passt',
    );
  }
  return ['--no-map-gw', ...(program.mapHostLoopback ? ['--map-host-loopback', 'none'] : [])];
}

/** Where the host's only resolver listens on its loopback, the guest needs another way to names. */
function nameArguments(
  program: Omit<PasstProgram, 'path'>,
  { resolvers, upstream }: HostNetwork,
  hostAccess: boolean,
): { readonly args: readonly string[]; readonly notes: readonly string[] } {
  const local = resolvers.every(isLoopback);
  // With the host's loopback the guest reaches its resolver, which passt arranges.
  if (!local || resolvers.length === 0 || hostAccess) return { args: [], notes: [] };
  if (program.dnsHost) return { args: ['--dns-forward', RESOLVER], notes: [] };
  const others = upstream.filter((address) => !isLoopback(address) && !address.includes('%'));
  if (others.length > 0) return { args: others.flatMap((address) => ['--dns', address]), notes: [] };
  const note =
    `this host's resolver is ${resolvers[0] ?? ''}, on its loopback, which this passt cannot lead a guest to: ` +
    'names do not resolve in the guest, but with --host-access, or a passt of 2025 or newer';
  return { args: [], notes: [note] };
}

/** Those of before 2024 take what a guest sends to its gateway for the host's loopback, also where it is an answer. */
function datagramNotes(
  program: Omit<PasstProgram, 'path'>,
  { forwards, hostAccess }: PasstSettings,
): readonly string[] {
  if (hostAccess || program.mapHostLoopback || forwards.every(({ protocol }) => protocol === 'tcp'))
    return [];
  return [
    'this passt brings no answers from forwarded UDP ports back to programs on this host itself, ' +
      'but with --host-access, or a passt of 2024 or newer',
  ];
}

function forwardArguments(
  forwards: readonly PortForward[],
  protocol: PortForward['protocol'],
  option: string,
): string[] {
  const mine = forwards.filter((forward) => forward.protocol === protocol);
  if (mine.length === 0) return [option, 'none'];
  return mine.flatMap((forward) => [option, specification(forward)]);
}

/** passt(1), --tcp-ports: `ADDRESS/FIRST-LAST:FIRST-LAST` */
function specification(forward: PortForward): string {
  const { address, host, guest, count } = forward;
  if (host === 0) throw new RangeError(`the port of ${formatForward(forward)} is not known yet`);
  const ports = (first: number): string => (count === 1 ? `${first}` : `${first}-${first + count - 1}`);
  return `${address === '*' ? '' : `${address}/`}${ports(host)}:${ports(guest)}`;
}
