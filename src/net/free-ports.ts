/** Sees to it that the ports which a VM is to have on the host are free, before anybody else is asked for them. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { systemCode } from '../kvm/system-code.ts';
import { findOverlap, formatEndpoint, type PortForward } from './forward.ts';
import { NetworkError } from './network-error.ts';
import { portHolder } from './port-holder.ts';

/** Ports that are tried at a time. */
const BATCH = 128;

/**
 * Chooses ports where a forward leaves that open, and tries all others.
 * @returns the forwards with their ports of the host
 * @throws NetworkError that names the port and what is in its way
 */
export async function settlePorts(forwards: readonly PortForward[]): Promise<PortForward[]> {
  const settled: PortForward[] = [];
  const overlap = findOverlap(forwards);
  if (overlap !== undefined) throw new NetworkError('EINVAL', overlap);
  // What is given comes first, so that no chosen port is one that another forward asks for.
  for (const forward of forwards) {
    if (forward.host !== 0) await tryRange(forward);
  }
  for (const forward of forwards) {
    settled.push(forward.host === 0 ? await choose(forward, [...forwards, ...settled]) : forward);
  }
  return settled;
}

async function choose(forward: PortForward, others: readonly PortForward[]): Promise<PortForward> {
  for (;;) {
    const chosen = {
      ...forward,
      host: await listen(forward.protocol, forward.address, 0).catch(explain(forward, 0)),
    };
    if (findOverlap([...others.filter((other) => other.host !== 0), chosen]) === undefined) return chosen;
  }
}

async function tryRange(forward: PortForward): Promise<void> {
  const { protocol, address, host, count } = forward;
  for (let first = host; first < host + count; first += BATCH) {
    const ports = Array.from({ length: Math.min(BATCH, host + count - first) }, (_, i) => first + i);
    await Promise.all(ports.map((port) => listen(protocol, address, port).catch(explain(forward, port))));
  }
}

/** Listens for a moment; resolves to the port. */
async function listen(protocol: PortForward['protocol'], address: string, port: number): Promise<number> {
  if (address !== '*') return listenOn(protocol, address, port);
  // Both families at once, but for hosts that have IPv4 alone.
  return listenOn(protocol, '::', port).catch((error: unknown) => {
    if (['EAFNOSUPPORT', 'EADDRNOTAVAIL'].includes(systemCode(error) ?? 'EINVAL'))
      return listenOn(protocol, '0.0.0.0', port);
    throw error;
  });
}

async function listenOn(protocol: PortForward['protocol'], address: string, port: number): Promise<number> {
  if (protocol === 'tcp') {
    const server = createServer();
    server.listen({ host: address, port, exclusive: true });
    await once(server, 'listening');
    const { port: got } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return got;
  }
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  try {
    socket.bind({ address, port, exclusive: true });
    await once(socket, 'listening');
    return socket.address().port;
  } finally {
    socket.close();
  }
}

function explain(forward: PortForward, port: number): (error: unknown) => never {
  return (error) => {
    const code = systemCode(error) ?? 'EINVAL';
    const what = `${forward.protocol.toUpperCase()} port ${formatEndpoint(forward.address, port)}`;
    switch (code) {
      case 'EADDRINUSE': {
        const holder = portHolder(forward.protocol, port);
        throw new NetworkError(
          code,
          `${what} is in use${holder === undefined ? '' : ` by ${holder}`}`,
          `port 0 takes a free one: -p ${formatEndpoint(forward.address, 0)}:${forward.guest}`,
        );
      }
      case 'EACCES':
        throw new NetworkError(
          code,
          `${what} may not be used by this user`,
          'ports below 1024 are for root; take a higher one, or lower the sysctl net.ipv4.ip_unprivileged_port_start',
        );
      case 'EADDRNOTAVAIL':
        throw new NetworkError(code, `${what} cannot be had: ${forward.address} is no address of this host`);
      default:
        throw new NetworkError(
          code,
          `${what} cannot be had: ${error instanceof Error ? error.message : String(error)}`,
        );
    }
  };
}
