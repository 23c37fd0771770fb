import { Header, type HeaderData } from 'tar';

const BLOCK = 512;
/** names up to this length are in the header itself, in bytes */
const NAME = 99;

export type NewTarEntry = {
  readonly type: 'File' | 'Directory' | 'SymbolicLink';
  readonly path: string;
  /** of a symbolic link */
  readonly target?: string;
  readonly mode: number;
  readonly mtime: Date;
  readonly size: number;
};

/** Where the entries of sparse files are for who does not know such files. */
export const SPARSE_FOLDER = 'GNUSparseFile.0/';

/** Ends an archive. */
export const TAR_END = Buffer.alloc(2 * BLOCK);

/** The header of an entry that belongs to root. Long names are GNU's: BusyBox knows no others. */
export function tarHeader({ type, path, target, mode, mtime, size }: NewTarEntry): Buffer {
  const blocks: Buffer[] = [];
  if (Buffer.byteLength(path) > NAME) blocks.push(longName('NextFileHasLongPath', path));
  if (target !== undefined && Buffer.byteLength(target) > NAME)
    blocks.push(longName('NextFileHasLongLinkpath', target));
  blocks.push(
    encode({
      type,
      path: cut(path),
      ...(target !== undefined && { linkpath: cut(target) }),
      mode: mode & 0o7777,
      mtime,
      size,
    }),
  );
  return Buffer.concat(blocks);
}

export type SparseTarEntry = Pick<NewTarEntry, 'path' | 'mode' | 'mtime'> & {
  /** of what is stored: map and extents */
  readonly size: number;
  /** of the file */
  readonly realSize: number;
};

/** The header of a sparse file ("Storing Sparse Files" of GNU tar's manual, PAX format 1.0). */
export function sparseHeader({ path, mode, mtime, size, realSize }: SparseTarEntry): Buffer {
  const records = Buffer.from(
    [
      paxRecord('GNU.sparse.major', '1'),
      paxRecord('GNU.sparse.minor', '0'),
      paxRecord('GNU.sparse.name', path),
      paxRecord('GNU.sparse.realsize', String(realSize)),
    ].join(''),
  );
  const pax = {
    type: 'ExtendedHeader',
    path: `PaxHeaders/${path}`,
    mode: 0o644,
    mtime,
    size: records.length,
  } as const;
  return Buffer.concat([
    encode(pax),
    records,
    tarPadding(records.length),
    encode({ type: 'File', path: SPARSE_FOLDER + path, mode: mode & 0o7777, mtime, size }),
  ]);
}

/** `LENGTH KEY=VALUE`, where the length counts itself (POSIX, pax, "pax Extended Header"). */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  const length = Buffer.byteLength(rest);
  let digits = String(length).length;
  while (String(length + digits).length > digits) digits++;
  return `${length + digits}${rest}`;
}

/** What follows `size` bytes of content. */
export const tarPadding = (size: number): Buffer => Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);

function longName(type: 'NextFileHasLongPath' | 'NextFileHasLongLinkpath', name: string): Buffer {
  const bytes = Buffer.from(`${name}\0`);
  const header = encode({
    type,
    path: '././@LongLink',
    mode: 0o644,
    mtime: new Date(0),
    size: bytes.length,
  });
  return Buffer.concat([header, bytes, tarPadding(bytes.length)]);
}

/** A name as far as the header has room for it; the whole one comes before it. */
function cut(name: string): string {
  const bytes = Buffer.from(name);
  return bytes.length <= NAME
    ? name
    : bytes
        .subarray(0, NAME)
        .toString('latin1')
        .replaceAll(/[^ -~]/g, '_');
}

function encode(data: HeaderData & Pick<Header, 'type'>): Buffer {
  const block = Buffer.alloc(BLOCK);
  new Header({ ...data, uid: 0, gid: 0 }).encode(block);
  return block;
}
