/** Arguments of `tsvm run` that describe devices: `FILE,key=value,flag`. */
import { closest, distance } from 'fastest-levenshtein';

import { MAX_GUEST_CID, MIN_GUEST_CID } from '../../devices/vsock/protocol.ts';
import type {
  BalloonOptions,
  DiskOptions,
  PortOptions,
  ShareOptions,
  VsockOptions,
} from '../../vmm/types.ts';
import { parseSize } from '../sizes.ts';

/** What VIRTIO_BLK_T_GET_ID has room for (VIRTIO 1.2, 5.2.6). */
const SERIAL_LIMIT = 20;
/** Linux shows a port's name as a file's. */
const PORT_NAME_LIMIT = 64;
/** What virtio-fs has room for (VIRTIO 1.2, 5.11.4). */
const TAG_LIMIT = 36;

type Parser<T> = (value: string) => T;

/** One of several words. */
function oneOf<const Word extends string>(...words: readonly Word[]): Parser<Word> {
  return (value) => {
    const word = words.find((each) => each === value);
    if (word === undefined) throw new RangeError(`'${value}' is none of ${words.join(', ')}`);
    return word;
  };
}

export function count(min: number, max: number): Parser<number> {
  return (value) => {
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < min || number > max) {
      throw new RangeError(`'${value}' is not a whole number from ${min} to ${max}`);
    }
    return number;
  };
}

export function switched(value: string): boolean {
  return oneOf('on', 'off')(value) === 'on';
}

function serial(value: string): string {
  if (!/^[\x20-\x7e]+$/.test(value) || value.length > SERIAL_LIMIT) {
    throw new RangeError(`a serial number has 1 to ${SERIAL_LIMIT} printable ASCII characters`);
  }
  return value;
}

const DISK_KEYS = {
  format: oneOf('raw', 'qcow2'),
  ro: switched,
  cache: oneOf('writeback', 'none', 'unsafe'),
  serial,
  'block-size': count(512, 4096),
  queues: count(1, 16),
  bps: (value: string) => parseSize(value),
  iops: count(1, 100_000_000),
  'trust-backing': switched,
} as const;

const BALLOON_KEYS = {
  size: (value: string) => (value === '0' ? 0 : parseSize(value)),
  'deflate-on-oom': switched,
  reporting: switched,
  stats: count(0, 3600),
} as const;

const VSOCK_KEYS = { cid: count(MIN_GUEST_CID, MAX_GUEST_CID) } as const;

const SHARE_KEYS = {
  ro: switched,
  cache: oneOf('auto', 'none', 'always'),
  uid: count(0, 2 ** 32 - 2),
  gid: count(0, 2 ** 32 - 2),
  tag: (value: string): string => {
    if (!/^[\x21-\x7e]+$/.test(value) || value.length > TAG_LIMIT) {
      throw new RangeError(`1 to ${TAG_LIMIT} ASCII characters without blanks`);
    }
    return value;
  },
} as const;

type Values<Keys extends Readonly<Record<string, Parser<unknown>>>> = {
  -readonly [Key in keyof Keys]?: ReturnType<Keys[Key]>;
};

/** Splits at commas; two of them in a row stand for one that is meant, as with QEMU. */
export function split(text: string): string[] {
  const words: string[] = [];
  let word = '';
  for (const piece of text.split(/(,,|,)/)) {
    if (piece === ',,') word += ',';
    else if (piece === ',') {
      words.push(word);
      word = '';
    } else word += piece;
  }
  return [...words, word];
}

/** Reads `key=value` and, for switches, `key` alone. @throws RangeError naming what is wrong */
export function read<Keys extends Readonly<Record<string, Parser<unknown>>>>(
  words: readonly string[],
  keys: Keys,
): Values<Keys> {
  const values: Record<string, unknown> = {};
  for (const word of words) {
    const at = word.indexOf('=');
    const key = at < 0 ? word : word.slice(0, at);
    const parse = Object.hasOwn(keys, key) ? keys[key] : undefined;
    if (parse === undefined) {
      const near = closest(key, Object.keys(keys));
      const hint =
        distance(key, near) <= 2
          ? `; did you mean '${near}'?`
          : `; there are ${Object.keys(keys).join(', ')}`;
      throw new RangeError(`'${key}' is no setting here${hint}`);
    }
    if (Object.hasOwn(values, key)) throw new RangeError(`'${key}' is given twice`);
    if (at < 0 && parse !== switched) throw new RangeError(`'${key}' needs a value: ${key}=…`);
    try {
      values[key] = at < 0 ? true : parse(word.slice(at + 1));
    } catch (error) {
      throw new RangeError(`${key}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return values as Values<Keys>;
}

/** A disk: `FILE[,format=raw|qcow2][,ro][,cache=writeback|none|unsafe][,serial=TEXT]…` */
export function parseDisk(text: string): DiskOptions {
  const [path = '', ...words] = split(text);
  if (path === '')
    throw new RangeError('a disk needs a file: FILE[,format=raw|qcow2][,ro][,cache=…][,serial=…]');
  const {
    format,
    ro,
    cache,
    serial: id,
    'block-size': blockSize,
    queues,
    bps,
    iops,
    'trust-backing': trusted,
  } = read(words, DISK_KEYS);
  if (blockSize !== undefined && blockSize !== 512 && blockSize !== 4096) {
    throw new RangeError('block-size: 512 or 4096');
  }
  return {
    path,
    ...(format !== undefined && { format }),
    ...(trusted !== undefined && { backing: { trusted } }),
    ...(ro !== undefined && { readOnly: ro }),
    ...(cache !== undefined && { cache }),
    ...(id !== undefined && { serial: id }),
    ...(blockSize !== undefined && { blockSize }),
    ...(queues !== undefined && { queues }),
    ...((bps !== undefined || iops !== undefined) && {
      rate: {
        ...(bps !== undefined && { bytesPerSecond: bps }),
        ...(iops !== undefined && { operationsPerSecond: iops }),
      },
    }),
  };
}

/** A balloon: `[size=SIZE][,deflate-on-oom=on|off][,reporting=on|off][,stats=SECONDS]`, or nothing. */
export function parseBalloon(text: string): BalloonOptions {
  const { size, 'deflate-on-oom': deflate, reporting, stats } = read(split(text), BALLOON_KEYS);
  return {
    ...(size !== undefined && { size }),
    ...(deflate !== undefined && { deflateOnOom: deflate }),
    ...(reporting !== undefined && { freePageReporting: reporting }),
    ...(stats !== undefined && { statisticsInterval: stats }),
  };
}

/** Sockets of the guest: `PATH[,cid=N]`. */
export function parseVsock(text: string): VsockOptions {
  const [path = '', ...words] = split(text);
  if (path === '') throw new RangeError('a vsock needs the path of a unix socket: PATH[,cid=N]');
  const { cid } = read(words, VSOCK_KEYS);
  return { path, ...(cid !== undefined && { cid }) };
}

/** A port: `NAME=PATH`. */
export function parsePort(text: string): PortOptions {
  const at = text.indexOf('=');
  const name = text.slice(0, Math.max(at, 0));
  const path = text.slice(at + 1);
  if (at < 0 || path === '')
    throw new RangeError('a port is NAME=PATH, such as org.qemu.guest_agent.0=agent.sock');
  if (!/^[A-Za-z0-9._-]+$/.test(name) || name.length > PORT_NAME_LIMIT) {
    throw new RangeError(
      `'${name}' is no port name: 1 to ${PORT_NAME_LIMIT} letters, digits, dots, dashes and underlines`,
    );
  }
  return { name, path };
}

/** A shared folder: `HOST:GUEST[:ro][,ro][,cache=auto|none|always][,uid=N][,gid=N][,tag=NAME]` */
export function parseShare(text: string): ShareOptions {
  const [paths = '', ...words] = split(text);
  const [, spec = paths, mode] = /^(.*):(ro|rw)$/s.exec(paths) ?? [];
  // The guest's path has no colon in it, the host's may.
  const at = spec.lastIndexOf(':');
  const path = spec.slice(0, Math.max(at, 0));
  const guest = spec.slice(at + 1);
  if (path === '') throw new RangeError('a share is HOST:GUEST[:ro], such as ./src:/mnt/src:ro');
  if (!/^\/[^\p{Cc}]+$/u.test(guest) || guest.split('/').includes('..')) {
    throw new RangeError(`'${guest}' is no absolute path below the guest's root`);
  }
  const { ro = mode === 'ro', cache, uid, gid, tag } = read(words, SHARE_KEYS);
  if (mode === 'rw' && ro) throw new RangeError('both rw and ro');
  return {
    path,
    guest: guest.replace(/\/+/g, '/').replace(/(.)\/$/, '$1'),
    ...(ro && { readOnly: true }),
    ...(cache !== undefined && { cache }),
    ...(uid !== undefined && { uid }),
    ...(gid !== undefined && { gid }),
    ...(tag !== undefined && { tag }),
  };
}
