/** Files of a guest by their paths. Links are followed within the file system and never lead out of it. */
import type { FsDriver, GuestFsType, GuestNode } from './driver.ts';
import { PATH_LIMIT } from './driver.ts';
import { corrupt, GuestFsError } from './error.ts';

/** As many symbolic links as Linux follows in one path. */
const LINK_LIMIT = 40;
/** Names that are listed of one directory. */
const NAME_LIMIT = 100_000;
const PIECE = 2 ** 20;
/** Names of files in a path, those of links in it included. */
const STEP_LIMIT = 1000;

export type GuestFile = GuestNode & {
  /** where it is, with no links in it */
  readonly path: string;
  /** Fills `target`. @throws GuestFsError, also where it is not within the file's size */
  read(offset: number, target: Uint8Array): Promise<void>;
};

/** What of a file system does not depend on its format. All methods throw GuestFsError and nothing else. */
export type GuestFs = {
  readonly type: GuestFsType;
  /** as `root=UUID=` takes it; '' where there is none */
  readonly uuid: string;
  readonly label: string;
  /** what is wrong and could be done without, each one line */
  readonly notes: readonly string[];
  /** What a path leads to, through links; undefined where there is nothing. */
  stat(path: string): Promise<GuestNode | undefined>;
  /** As {@link GuestFs.stat}, but a link at the end is not followed. */
  lstat(path: string): Promise<GuestNode | undefined>;
  /** Names in a directory, in no order. */
  list(path: string): Promise<string[]>;
  /** The text of a symbolic link. */
  readLink(path: string): Promise<string>;
  /** @throws GuestFsError: ENOENT, EISDIR, ECORRUPT where it is neither a file nor leads to one */
  open(path: string): Promise<GuestFile>;
  /** All of a file that has no more than `limit` bytes. */
  readFile(path: string, limit: number): Promise<Uint8Array>;
};

export class PathWalker<Entry extends { readonly name: string }, Node extends GuestNode> implements GuestFs {
  readonly #driver: FsDriver<Entry, Node>;

  constructor(driver: FsDriver<Entry, Node>) {
    this.#driver = driver;
  }

  get type(): GuestFsType {
    return this.#driver.type;
  }

  get uuid(): string {
    return this.#driver.uuid;
  }

  get label(): string {
    return this.#driver.label;
  }

  get notes(): readonly string[] {
    return this.#driver.notes;
  }

  async stat(path: string): Promise<GuestNode | undefined> {
    return (await this.#walk(path, true))?.node;
  }

  async lstat(path: string): Promise<GuestNode | undefined> {
    return (await this.#walk(path, false))?.node;
  }

  async list(path: string): Promise<string[]> {
    const { node } = await this.#find(path);
    if (node.kind !== 'directory') throw new GuestFsError('ENOTDIR', `${path} is no directory`);
    const names: string[] = [];
    for await (const entries of this.#driver.entries(node)) {
      for (const { name } of entries) names.push(name);
      if (names.length > NAME_LIMIT)
        throw new GuestFsError('ETOOBIG', `${path} has over ${NAME_LIMIT} names`);
    }
    return names;
  }

  async readLink(path: string): Promise<string> {
    const found = await this.#walk(path, false);
    if (found?.node.kind !== 'symlink') throw new GuestFsError('ENOENT', `${path} is no symbolic link`);
    return this.#driver.link(found.node);
  }

  async open(path: string): Promise<GuestFile> {
    const { node, path: real } = await this.#find(path);
    if (node.kind === 'directory') throw new GuestFsError('EISDIR', `${path} is a directory`);
    if (node.kind !== 'file') throw corrupt(`${path} is no regular file`);
    const { kind, size, mtime, stamp } = node;
    const read = async (offset: number, target: Uint8Array): Promise<void> => {
      if (!(offset >= 0 && offset + target.length <= size))
        throw corrupt(`${path}: ${target.length} bytes at ${offset} are not within ${size}`);
      await this.#driver.read(node, offset, target);
    };
    return { kind, size, mtime, stamp, path: real, read };
  }

  async readFile(path: string, limit: number): Promise<Uint8Array> {
    const file = await this.open(path);
    if (file.size > limit)
      throw new GuestFsError('ETOOBIG', `${path} has ${file.size} bytes, at most ${limit} are read`);
    const bytes = new Uint8Array(file.size);
    for (let at = 0; at < bytes.length; at += PIECE) await file.read(at, bytes.subarray(at, at + PIECE));
    return bytes;
  }

  async #find(path: string): Promise<{ node: Node; path: string }> {
    const found = await this.#walk(path, true);
    if (found === undefined) throw new GuestFsError('ENOENT', `there is no ${path}`);
    return found;
  }

  /** A path is taken from the root in any case; `..` of the root is the root. */
  async #walk(path: string, followLast: boolean): Promise<{ node: Node; path: string } | undefined> {
    const rest = partsOf(path).reverse();
    const above: { readonly name: string; readonly node: Node }[] = [];
    const root = await this.#driver.root();
    let links = 0;
    let steps = 0;
    for (let part = rest.pop(); part !== undefined; part = rest.pop()) {
      if (++steps > STEP_LIMIT) throw new GuestFsError('ELOOP', `${path} leads through too many directories`);
      const here = above.at(-1)?.node ?? root;
      if (here.kind !== 'directory') return undefined;
      if (part === '..') above.pop();
      if (part === '..' || part === '.') continue;
      const node = await this.#lookUp(here, part);
      if (node === undefined) return undefined;
      if (node.kind === 'symlink' && (rest.length > 0 || followLast)) {
        if (++links > LINK_LIMIT)
          throw new GuestFsError('ELOOP', `${path} leads through too many symbolic links`);
        const target = await this.#driver.link(node);
        if (target.startsWith('/')) above.length = 0;
        rest.push(...partsOf(target).reverse());
      } else above.push({ name: part, node });
    }
    return { node: above.at(-1)?.node ?? root, path: `/${above.map(({ name }) => name).join('/')}` };
  }

  async #lookUp(directory: Node, name: string): Promise<Node | undefined> {
    for await (const entries of this.#driver.entries(directory)) {
      const entry = entries.find((candidate) => this.#driver.isNamed(candidate, name));
      if (entry !== undefined) return this.#driver.node(entry);
    }
    return undefined;
  }
}

function partsOf(path: string): string[] {
  if (path.length > PATH_LIMIT) throw new GuestFsError('ETOOBIG', `a path of ${path.length} characters`);
  return path.split('/').filter((part) => part !== '');
}
