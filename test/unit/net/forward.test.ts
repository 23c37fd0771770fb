import { describe, expect, it } from 'vitest';
import { findOverlap, formatForward, parseForward } from '../../../src/net/forward.ts';

describe('parseForward', () => {
  it.each([
    ['8080:80', { protocol: 'tcp', address: '127.0.0.1', host: 8080, guest: 80, count: 1 }],
    ['8080:80/tcp', { protocol: 'tcp', address: '127.0.0.1', host: 8080, guest: 80, count: 1 }],
    ['5353:53/udp', { protocol: 'udp', address: '127.0.0.1', host: 5353, guest: 53, count: 1 }],
    ['0:22', { protocol: 'tcp', address: '127.0.0.1', host: 0, guest: 22, count: 1 }],
    ['0.0.0.0:65535:65535', { protocol: 'tcp', address: '0.0.0.0', host: 65535, guest: 65535, count: 1 }],
    ['[::1]:0:22', { protocol: 'tcp', address: '::1', host: 0, guest: 22, count: 1 }],
    ['[FD00::A]:1:2', { protocol: 'tcp', address: 'fd00::a', host: 1, guest: 2, count: 1 }],
    ['*:443:8443', { protocol: 'tcp', address: '*', host: 443, guest: 8443, count: 1 }],
    [
      '6000-6010:16000-16010/udp',
      { protocol: 'udp', address: '127.0.0.1', host: 6000, guest: 16000, count: 11 },
    ],
  ])('reads %s', (text, forward) => {
    expect(parseForward(text)).toEqual(forward);
  });

  it.each([
    ['', 'is no port forward'],
    ['80', 'is no port forward'],
    ['1:2:3:4', 'is no port forward'],
    ['::1:80:80', 'is no port forward'],
    [':80', 'no port of the host'],
    ['80:', 'no port of the guest'],
    ['80:0', 'ports of the guest are 1 to 65535'],
    ['65536:80', 'ports of the host are 0 to 65535'],
    ['80:-1', 'no port of the guest'],
    ['80:0x50', 'no port of the guest'],
    ['80:80/sctp', 'neither tcp nor udp'],
    ['80-90:80-91', 'need one length'],
    ['80-90:80', 'need one length'],
    ['90-80:90-80', 'ends before it begins'],
    ['0-5:1-6', 'cannot begin at port 0'],
    ['localhost:80:80', 'no address of the host'],
    ['[fe80::1%eth0]:80:80', 'no address of the host'],
    ['[127.0.0.1]:80:80', 'no address of the host'],
    ['1.2.3:80:80', 'no address of the host'],
  ])('refuses %j', (text, message) => {
    expect(() => parseForward(text)).toThrow(RangeError);
    expect(() => parseForward(text)).toThrow(message);
  });

  it.each(['127.0.0.1:8080:80', '[::1]:5000-5001:6000-6001/udp', '*:1:1'])(
    'is undone by formatForward: %s',
    (text) => {
      expect(formatForward(parseForward(text))).toBe(text);
    },
  );
});

describe('findOverlap', () => {
  const overlap = (...texts: string[]) => findOverlap(texts.map(parseForward));

  it('names the port and both forwards', () => {
    expect(overlap('80-90:80-90', '[::1]:85:1')).toBe(
      'port 85 of the host is forwarded twice: by 127.0.0.1:80-90:80-90 and [::1]:85:1',
    );
  });

  it('lets neighbours, protocols and free ports be', () => {
    expect(overlap('80-90:80-90', '91:91', '79:79', '85:85/udp', '0:1', '0:2')).toBeUndefined();
  });
});
