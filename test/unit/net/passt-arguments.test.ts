import { describe, expect, it } from 'vitest';
import { parseForward } from '../../../src/net/forward.ts';
import { passtArguments, type PasstSettings } from '../../../src/net/passt/arguments.ts';
import { defaultRoutes, nameServers, type HostNetwork } from '../../../src/net/passt/host-network.ts';

const OLD = { stderrOption: true, noMapGateway: true, mapHostLoopback: false, dnsHost: false };
const NEW = { stderrOption: false, noMapGateway: true, mapHostLoopback: true, dnsHost: true };
const HOST: HostNetwork = { routes: { ip4: true, ip6: true }, resolvers: ['192.0.2.53'], upstream: [] };
const PLAIN: PasstSettings = { forwards: [], hostAccess: false, mtu: 1500 };

const line = (
  program: typeof OLD,
  host: Partial<HostNetwork> = {},
  settings: Partial<PasstSettings> = {},
): string => passtArguments(program, { ...HOST, ...host }, { ...PLAIN, ...settings }, 3).args.join(' ');

describe('the arguments of passt', () => {
  it("keep the guest from the host's loopback unless it may go there", () => {
    expect(line(OLD)).toContain('--no-map-gw');
    expect(line(NEW)).toContain('--no-map-gw --map-host-loopback none');
    expect(line(NEW, {}, { hostAccess: true })).not.toContain('map');
    expect(() => line({ ...OLD, noMapGateway: false })).toThrow(
      "cannot keep a guest from the host's loopback",
    );
  });

  it('name ports with their addresses, and none of the other protocol', () => {
    const forwards = ['8080:80', '[::1]:90-92:1090-1092', '*:443:8443'].map(parseForward);
    expect(line(OLD, {}, { forwards })).toContain(
      '--tcp-ports 127.0.0.1/8080:80 --tcp-ports ::1/90-92:1090-1092 --tcp-ports 443:8443 --udp-ports none',
    );
  });

  it('give a guest IPv4 of its own where the host has no route for it', () => {
    const own = '--address 10.0.2.15 --netmask 24 --gateway 10.0.2.2';
    expect(line(OLD)).not.toContain('--address');
    expect(line(OLD, { routes: { ip4: false, ip6: false } })).toContain(`--interface lo ${own}`);
    expect(line(OLD, { routes: { ip4: false, ip6: true } })).toContain(`--outbound-if4 lo ${own}`);
  });

  it("lead a guest past a resolver on the host's loopback", () => {
    const resolvers = ['127.0.0.53'];
    expect(line(NEW, { resolvers })).toContain('--dns-forward 169.254.1.1');
    expect(line(OLD, { resolvers, upstream: ['192.0.2.1', 'fe80::1%eth0', '127.0.0.1'] })).toContain(
      '--dns 192.0.2.1 ',
    );
    expect(line(OLD, { resolvers }, { hostAccess: true })).not.toContain('--dns');
    const { notes } = passtArguments(OLD, { ...HOST, resolvers }, PLAIN, 3);
    expect(notes.join()).toContain('resolver is 127.0.0.53, on its loopback');
  });

  it('come with a note where answers of forwarded UDP ports will be missed', () => {
    const forwards = [parseForward('53:53/udp')];
    const notes = (program: typeof OLD, hostAccess = false) =>
      passtArguments(program, HOST, { ...PLAIN, forwards, hostAccess }, 3).notes;
    expect(notes(OLD).join()).toContain('UDP');
    expect(notes(OLD, true)).toEqual([]);
    expect(notes(NEW)).toEqual([]);
  });
});

describe("the host's network", () => {
  it('has a default route of a family, or none', () => {
    const head = 'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n';
    const zero = '0'.repeat(32);
    const ip6 = (flags: string, device: string) =>
      `${zero} 00 ${zero} 00 fd000000000000000000000000000001 00000400 00000002 00000000 ${flags} ${device}\n`;
    expect(
      defaultRoutes(`${head}eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n`, ip6('00000003', 'eth0')),
    ).toEqual({
      ip4: true,
      ip6: true,
    });
    // a network, and what the kernel has where there is no route
    expect(
      defaultRoutes(`${head}eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n`, ip6('00200200', 'lo')),
    ).toEqual({
      ip4: false,
      ip6: false,
    });
    expect(defaultRoutes('', '')).toEqual({ ip4: false, ip6: false });
  });

  it('has the resolvers that resolv.conf names', () => {
    const text =
      '# nameserver 1.2.3.4\nnameserver 192.0.2.1\n nameserver 1.1.1.1\nnameserver fe80::1%eth0\nnameserver x\n';
    expect(nameServers(text)).toEqual(['192.0.2.1', 'fe80::1%eth0']);
  });
});
