import { describe, expect, test } from 'vitest';
import { OptionError } from '../../../../src/manager/options/option-error.ts';
import { parseForward } from '../../../../src/net/forward.ts';
import { networksOf, parseNet } from '../../../../src/manager/options/net-options.ts';

describe('--net', () => {
  test.each([
    ['none', 'none'],
    ['tap', { kind: 'tap' }],
    ['tap=tap0', { kind: 'tap', tap: 'tap0' }],
    [
      'tap=tap0,bridge=br0,queues=4,mtu=9000,mac=52:54:00:12:34:56',
      { kind: 'tap', tap: 'tap0', bridge: 'br0', queues: 4, mtu: 9000, mac: '52:54:00:12:34:56' },
    ],
    ['user,mtu=1500', { kind: 'user', mtu: 1500 }],
    ['vmnet=lan', { kind: 'vmnet', network: 'lan' }],
    ['vmnet=lan,name=web,uplink=off', { kind: 'vmnet', network: 'lan', name: 'web' }],
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
    ['user=x', /takes no name/],
    ['vmnet', /vmnet=NAME/],
    ['vmnet=Lan', /no name of a network/],
    [`vmnet=${'a'.repeat(33)}`, /no name of a network/],
    ['vmnet=lan,name=a.b', /no host's name/],
    ['stream', /stream=SOCKET/],
    ['stream=a.sock,queues=2', /no setting here/],
  ])("refuses '%s'", (text, message) => {
    expect(() => parseNet(text)).toThrow(message);
  });

  test('takes several cards, or none, but not both', () => {
    expect(networksOf(['none'])).toEqual([]);
    expect(networksOf([{ kind: 'tap' }, { kind: 'tap' }])).toHaveLength(2);
    expect(() => networksOf(['none', { kind: 'tap' }])).toThrow(OptionError);
  });

  test('takes a network of VMs with an uplink as two cards', () => {
    expect(networksOf([parseNet('vmnet=lan,uplink')])).toEqual([
      { kind: 'vmnet', network: 'lan' },
      { kind: 'user' },
    ]);
  });

  test('gives forwards and access to the host to the card on the user network', () => {
    const forwards = [parseForward('8080:80')];
    expect(networksOf([{ kind: 'tap' }, { kind: 'user' }], { forwards, hostAccess: true })).toEqual([
      { kind: 'tap' },
      { kind: 'user', forwards, hostAccess: true },
    ]);
    expect(() => networksOf([{ kind: 'tap' }], { forwards })).toThrow(
      '--publish needs a card on the user network',
    );
    expect(() => networksOf([], { hostAccess: true })).toThrow(
      '--host-access needs a card on the user network',
    );
    expect(() => networksOf([{ kind: 'user' }], { forwards: [...forwards, ...forwards] })).toThrow(
      'forwarded twice',
    );
  });

  test('takes one card on the user network at most', () => {
    expect(() => networksOf([{ kind: 'user' }, parseNet('vmnet=lan,uplink')])).toThrow(OptionError);
  });
});
