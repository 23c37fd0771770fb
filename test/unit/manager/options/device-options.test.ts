import { describe, expect, it } from 'vitest';
import {
  parseBalloon,
  parseDisk,
  parsePort,
  parseShare,
  parseVsock,
} from '../../../../src/manager/options/device-options.ts';

describe('a disk on the command line', () => {
  it('is a raw file where nothing else is said', () => {
    // The format stays open: only then is a file refused that looks like another one.
    expect(parseDisk('debian.raw')).toEqual({ path: 'debian.raw' });
  });

  it('is of the format that is given', () => {
    expect(parseDisk('a.qcow2,format=qcow2').format).toBe('qcow2');
    expect(parseDisk('a.raw,format=raw').format).toBe('raw');
  });

  it('has backing files anywhere only where that is said', () => {
    expect(parseDisk('a,format=qcow2').backing).toBeUndefined();
    expect(parseDisk('a,format=qcow2,trust-backing').backing).toEqual({ trusted: true });
  });

  it('takes every setting', () => {
    const text = 'd,format=raw,ro,cache=none,serial=ABC-1,block-size=4096,queues=2,bps=10M,iops=500';
    expect(parseDisk(text)).toEqual({
      path: 'd',
      format: 'raw',
      readOnly: true,
      cache: 'none',
      serial: 'ABC-1',
      blockSize: 4096,
      queues: 2,
      rate: { bytesPerSecond: 10 * 1024 ** 2, operationsPerSecond: 500 },
    });
  });

  it('has a switch on, off or by its name', () => {
    expect(parseDisk('d,ro=off').readOnly).toBe(false);
    expect(parseDisk('d,ro=on').readOnly).toBe(true);
  });

  it.each([
    ['a,,b', 'a,b'],
    [',,a,ro', ',a'],
    ['a,,,ro', 'a,'],
    ['a,,,,b', 'a,,b'],
  ])('takes two commas for one of the name: %s', (text, path) => {
    expect(parseDisk(text).path).toBe(path);
  });

  it.each([
    ['', 'needs a file'],
    [',ro', 'needs a file'],
    ['d,format=vmdk', "format: 'vmdk' is none of raw, qcow2"],
    ['d,cache=fast', "cache: 'fast' is none of writeback, none, unsafe"],
    ['d,cach=none', "did you mean 'cache'?"],
    ['d,nonsense', "'nonsense' is no setting here"],
    ['d,ro,ro', "'ro' is given twice"],
    ['d,serial', "'serial' needs a value"],
    ['d,serial=123456789012345678901', '1 to 20 printable'],
    ['d,block-size=1000', '512 or 4096'],
    ['d,queues=0', 'from 1 to 16'],
    ['d,bps=quick', 'bps: not a size'],
    ['d,__proto__=1', "'__proto__' is no setting"],
  ])('is refused: %s', (text, reason) => {
    expect(() => parseDisk(text)).toThrow(reason);
  });
});

describe('a balloon on the command line', () => {
  it('takes every setting', () => {
    expect(parseBalloon('size=64M,deflate-on-oom=off,reporting=on,stats=5')).toEqual({
      size: 64 * 1024 ** 2,
      deflateOnOom: false,
      freePageReporting: true,
      statisticsInterval: 5,
    });
  });

  it('may be empty at first', () => {
    expect(parseBalloon('size=0')).toEqual({ size: 0 });
  });
});

describe('a port on the command line', () => {
  it('has a name and a path, which may hold an equals sign', () => {
    expect(parsePort('org.qemu.guest_agent.0=/run/a=b.sock')).toEqual({
      name: 'org.qemu.guest_agent.0',
      path: '/run/a=b.sock',
    });
  });

  it.each(['agent', '=path', 'agent=', 'a/b=path', 'a b=path', `${'n'.repeat(65)}=path`])(
    'is refused: %s',
    (text) => {
      expect(() => parsePort(text)).toThrow(/port/);
    },
  );
});

describe('a vsock on the command line', () => {
  it('is the path of its socket, and the address of the guest where that is given', () => {
    expect(parseVsock('v.sock')).toEqual({ path: 'v.sock' });
    expect(parseVsock('v,,w.sock,cid=42')).toEqual({ path: 'v,w.sock', cid: 42 });
  });

  it.each(['', ',cid=3', 'v,cid=2', 'v,cid=4294967295', 'v,cid', 'v,sid=3', 'v,cid=3,cid=4'])(
    'is not %j',
    (text) => {
      expect(() => parseVsock(text)).toThrow(RangeError);
    },
  );
});

describe('a shared folder on the command line', () => {
  it('has a folder here and one there', () => {
    expect(parseShare('.:/mnt/src')).toEqual({ path: '.', guest: '/mnt/src' });
    expect(parseShare('/a:b:/mnt//src/')).toEqual({ path: '/a:b', guest: '/mnt/src' });
    expect(parseShare('/:/host')).toEqual({ path: '/', guest: '/host' });
  });

  it('is read-only where that is said, in either way', () => {
    expect(parseShare('src:/mnt:ro')).toEqual({ path: 'src', guest: '/mnt', readOnly: true });
    expect(parseShare('src:/mnt,ro')).toEqual({ path: 'src', guest: '/mnt', readOnly: true });
    expect(parseShare('src:/mnt:rw')).toEqual({ path: 'src', guest: '/mnt' });
  });

  it('takes every setting', () => {
    expect(parseShare('a,,b:/mnt:ro,cache=none,uid=1000,gid=100,tag=code')).toEqual({
      path: 'a,b',
      guest: '/mnt',
      readOnly: true,
      cache: 'none',
      uid: 1000,
      gid: 100,
      tag: 'code',
    });
  });

  it.each([
    ['src', 'HOST:GUEST'],
    [':/mnt', 'HOST:GUEST'],
    ['src:mnt', 'no absolute path'],
    ['src:', 'no absolute path'],
    ['src:/', 'no absolute path'],
    ['src:/mnt/../etc', 'no absolute path'],
    ['src:/mnt:rw,ro', 'both rw and ro'],
    ['src:/mnt,cache=some', 'none of auto, none, always'],
    ['src:/mnt,uid=-1', 'not a whole number'],
    ['src:/mnt,tag=', '1 to 36'],
    [`src:/mnt,tag=${'t'.repeat(37)}`, '1 to 36'],
  ])('is refused: %s', (text, reason) => {
    expect(() => parseShare(text)).toThrow(reason);
  });
});
