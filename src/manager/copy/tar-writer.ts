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
