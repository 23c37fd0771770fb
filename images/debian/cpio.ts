/**
 * Writer of cpio archives in the `newc` format, the one that Linux unpacks as an initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Owner and times are 0, so equal input gives an equal
 * archive.
 */

export type CpioEntry =
  | { readonly type: 'dir'; readonly path: string; readonly mode?: number }
  | {
      readonly type: 'file';
      readonly path: string;
      readonly content: string | Uint8Array;
      readonly mode?: number;
    }
  | { readonly type: 'symlink'; readonly path: string; readonly target: string }
  | {
      readonly type: 'char';
      readonly path: string;
      readonly major: number;
      readonly minor: number;
      readonly mode?: number;
    };

const TYPE_BITS = { dir: 0o040000, file: 0o100000, symlink: 0o120000, char: 0o020000 } as const;
const DEFAULT_MODE = { dir: 0o755, file: 0o644, symlink: 0o777, char: 0o600 } as const;
const TRAILER = 'TRAILER!!!';

/**
 * @param entries in the order they are to be unpacked in; directories above an entry are added where they are missing
 * @throws RangeError on a path that is absolute, empty, leaves the archive, or is there twice
 */
export function cpio(entries: Iterable<CpioEntry>): Buffer {
  const parts: Buffer[] = [];
  const seen = new Set<string>();
  let inode = 0;

  const add = (entry: CpioEntry): void => {
    const parent = entry.path.lastIndexOf('/');
    if (parent > 0 && !seen.has(entry.path.slice(0, parent))) {
      add({ type: 'dir', path: entry.path.slice(0, parent) });
    }
    seen.add(entry.path);
    const mode = ('mode' in entry ? entry.mode : undefined) ?? DEFAULT_MODE[entry.type];
    const rdev = entry.type === 'char' ? ([entry.major, entry.minor] as const) : ([0, 0] as const);
    const links = entry.type === 'dir' ? 2 : 1;
    pushRecord(parts, entry.path, contentOf(entry), ++inode, TYPE_BITS[entry.type] | mode, links, rdev);
  };

  for (const entry of entries) {
    if (
      entry.path === '' ||
      entry.path.split('/').some((name) => name === '' || name === '.' || name === '..')
    ) {
      throw new RangeError(`cpio: not a relative path in its simplest form: ${JSON.stringify(entry.path)}`);
    }
    if (seen.has(entry.path)) {
      if (entry.type === 'dir') continue;
      throw new RangeError(`cpio: ${entry.path} is there twice`);
    }
    add(entry);
  }
  pushRecord(parts, TRAILER, Buffer.alloc(0), 0, 0, 1, [0, 0]);
  return Buffer.concat(parts);
}

function contentOf(entry: CpioEntry): Buffer {
  if (entry.type === 'symlink') return Buffer.from(entry.target);
  if (entry.type !== 'file') return Buffer.alloc(0);
  const { content } = entry;
  return typeof content === 'string'
    ? Buffer.from(content)
    : Buffer.from(content.buffer, content.byteOffset, content.byteLength);
}

function pushRecord(
  parts: Buffer[],
  path: string,
  content: Buffer,
  inode: number,
  mode: number,
  links: number,
  rdev: readonly [major: number, minor: number],
): void {
  const name = Buffer.from(`${path}\0`);
  // c_ino c_mode c_uid c_gid c_nlink c_mtime c_filesize c_maj c_min c_rmaj c_rmin c_namesize c_chksum
  const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, rdev[0], rdev[1], name.length, 0];
  const header = Buffer.from('070701' + fields.map((n) => n.toString(16).padStart(8, '0')).join(''));
  parts.push(header, name, padding(header.length + name.length), content, padding(content.length));
}

/** Name and content each end on a multiple of 4 bytes. */
function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}
