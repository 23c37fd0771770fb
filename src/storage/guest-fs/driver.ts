/** What a format has to know; paths, links and limits are the same for all of them (guest-fs.ts). */

export type NodeKind = 'file' | 'directory' | 'symlink' | 'other';

export type GuestNode = {
  readonly kind: NodeKind;
  /** in bytes */
  readonly size: number;
  /** of the last change of its content, in seconds since 1970 */
  readonly mtime: number;
  /** what changes whenever the content does, as far as the file system keeps account of it; printable ASCII */
  readonly stamp: string;
};

export type GuestFsType = 'ext2' | 'ext3' | 'ext4' | 'vfat' | 'xfs';

/** `Entry` is what a directory has of a file, `Node` what is needed to read it. All methods throw GuestFsError alone. */
export type FsDriver<Entry extends { readonly name: string }, Node extends GuestNode> = {
  readonly type: GuestFsType;
  /** as `root=UUID=` takes it; '' where there is none */
  readonly uuid: string;
  readonly label: string;
  /** what is wrong and could be done without, each one line */
  readonly notes: readonly string[];
  root(): Promise<Node>;
  /** Without `.` and `..`; block by block. */
  entries(directory: Node): AsyncIterable<readonly Entry[]>;
  node(entry: Entry): Promise<Node>;
  /** Whether a name in a path means this entry. */
  isNamed(entry: Entry, name: string): boolean;
  /** Fills `target`, all of which is within the file's size. */
  read(node: Node, offset: number, target: Uint8Array): Promise<void>;
  /** The path in a symbolic link. */
  link(node: Node): Promise<string>;
};

/** Directories larger than this are not read: some 100,000 names of usual length. */
export const DIRECTORY_LIMIT = 8 * 2 ** 20;
/** Linux' PATH_MAX */
export const PATH_LIMIT = 4096;
