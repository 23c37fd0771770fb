import { describe, expect, test } from 'vitest';
import { UsageError } from '../../../src/cli/errors.ts';
import { networksOf, parseNet } from '../../../src/cli/net-options.ts';

describe('--net', () => {
  test.each([
    ['none', 'none'],
    ['tap', { kind: 'tap' }],
    ['tap=tap0', { kind: 'tap', tap: 'tap0' }],
    [
      'tap=tap0,bridge=br0,queues=4,mtu=9000,mac=52:54:00:12:34:56',
      { kind: 'tap', tap: 'tap0', bridge: 'br0', queues: 4, mtu: 9000, mac: '52:54:00:12:34:56' },
    ],
    ['stream=/run/a,,b.sock,link=off', { kind: 'stream', path: '/run/a,b.sock', link: false }],
    [
      'tap,bps=10M,pps=1000',
      { kind: 'tap', rate: { bytesPerSecond: 10 * 1024 ** 2, packetsPerSecond: 1000 } },
    ],
  ])('reads %s', (text, expected) => {
    expect(parseNet(text)).toEqual(expected);
  });

  test.each([
    ['', /no kind of network/],
    ['bridge=br0', /no kind of network/],
    ['none,mtu=1500', /stands alone/],
    ['tap=', /no interface's name/],
    ['tap=a-name-that-is-too-long', /no interface's name/],
    ['tap=../../x', /no interface's name/],
    ['tap=tap%d', /no interface's name/],
    ['tap,bridge=a b', /no interface's name/],
    ['tap,mac=01:00:5e:00:00:01', /mac: .*group/],
    ['tap,mtu=100', /mtu: .*1280/],
    ['tap,mtu=65536', /mtu: .*65535/],
    ['tap,queues=17', /queues: .*1 to 16/],
    ['tap,que=2', /no setting here/],
    ['tap,mtu=1500,mtu=1500', /twice/],
    ['stream', /stream=SOCKET/],
    ['stream=a.sock,queues=2', /no setting here/],
  ])("refuses '%s'", (text, message) => {
    expect(() => parseNet(text)).toThrow(message);
  });

  test('takes several cards, or none, but not both', () => {
    expect(networksOf(['none'])).toEqual([]);
    expect(networksOf([{ kind: 'tap' }, { kind: 'tap' }])).toHaveLength(2);
    expect(() => networksOf(['none', { kind: 'tap' }])).toThrow(UsageError);
  });
});
