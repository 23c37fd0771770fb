import type { Node } from './nodes.ts';

/** A file or a folder that the guest has open. */
export class Handle {
  readonly index: number;
  readonly generation: number;
  readonly fd: number;
  readonly node: Node;
  /** flags of open(2) that the host's descriptor has */
  readonly flags: number;
  readonly folder: FolderReader | undefined;
  /** calls that need `fd` */
  users = 0;
  open = true;

  constructor(
    index: number,
    generation: number,
    fd: number,
    node: Node,
    flags: number,
    folder: FolderReader | undefined,
  ) {
    this.index = index;
    this.generation = generation;
    this.fd = fd;
    this.node = node;
    this.flags = flags;
    this.folder = folder;
  }
}

/** Entries that were read from the host and not given to the guest yet: a guest asks for a page at a time. */
export class FolderReader {
  entries = new Uint8Array(0);
  /** of the next entry in `entries`, and where they end */
  at = 0;
  end = 0;
  /** position in the folder, by halves, that the guest asks for to have the next entry */
  nextLow = 0;
  nextHigh = 0;
  /** the position that the host's descriptor has */
  hostLow = 0;
  hostHigh = 0;
}

/** What the guest has open, by the numbers that it has for them: an index below and a generation, never 0, above. */
export class HandleTable {
  readonly #handles: (Handle | undefined)[] = [];
  readonly #generations: number[] = [];
  readonly #free: number[] = [];
  readonly #close: (handle: Handle) => void;
  /** handles in the table */
  count = 0;

  /** @param close is given handles that nobody needs any more */
  constructor(close: (handle: Handle) => void) {
    this.#close = close;
  }

  add(fd: number, node: Node, flags: number, folder: FolderReader | undefined): Handle {
    const index = this.#free.pop() ?? this.#handles.length;
    return this.place(new Handle(index, this.#generations[index] ?? 1, fd, node, flags, folder));
  }

  /** Puts a handle at its index. */
  place(handle: Handle): Handle {
    while (this.#handles.length <= handle.index) {
      this.#handles.push(undefined);
      this.#generations.push(1);
    }
    this.#handles[handle.index] = handle;
    this.#generations[handle.index] = handle.generation;
    handle.node.users++;
    this.count++;
    return handle;
  }

  isFree(index: number): boolean {
    return this.#handles[index] === undefined;
  }

  /** The handle of this number and node, or undefined where there is none. */
  get(low: number, high: number, node: Node): Handle | undefined {
    const handle = this.#handles[low];
    return handle?.generation === high && handle.node === node ? handle : undefined;
  }

  /** Closes it, once no call needs it. */
  remove(handle: Handle): void {
    handle.open = false;
    this.#handles[handle.index] = undefined;
    this.#generations[handle.index] = Math.max(1, (handle.generation + 1) >>> 0);
    this.#free.push(handle.index);
    this.count--;
    if (handle.users === 0) this.#close(handle);
  }

  release(handle: Handle): void {
    handle.users--;
    if (!handle.open && handle.users === 0) this.#close(handle);
  }

  clear(): void {
    for (const handle of this.#handles) if (handle !== undefined) this.remove(handle);
  }

  *all(): Generator<Handle> {
    for (const handle of this.#handles) if (handle !== undefined) yield handle;
  }

  settle(): void {
    this.#free.length = 0;
    for (let i = this.#handles.length - 1; i >= 0; i--)
      if (this.#handles[i] === undefined) this.#free.push(i);
  }
}
