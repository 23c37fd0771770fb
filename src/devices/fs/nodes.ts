import { closeSync } from 'node:fs';
import { ATTRIBUTE, type FileCall } from '../../kvm/file-calls.ts';
import { ROOT_ID, S_IFMT } from './protocol.ts';

/** A file that the guest's kernel has a name for, held open so that it stays the same whatever becomes of its paths. */
export class Node {
  readonly index: number;
  readonly generation: number;
  /** O_PATH; -1 where it is gone for good */
  readonly fd: number;
  /** type bits of its mode, which do not change */
  readonly type: number;
  /** how often the guest was given it (nlookup) */
  lookups = 0;
  /** calls and handles that need `fd` */
  users = 0;
  /** is in the table */
  known = true;
  /** what a reader's cache was good for when it was last opened; see {@link stamp} */
  readonly #stamp = new Float64Array(4);
  readonly device: number;
  readonly inode: number | string;

  constructor(
    index: number,
    generation: number,
    fd: number,
    type: number,
    device: number,
    inode: number | string,
  ) {
    this.index = index;
    this.generation = generation;
    this.fd = fd;
    this.type = type;
    this.device = device;
    this.inode = inode;
    this.#stamp[0] = NaN;
  }

  /**
   * Whether the file is as it was at the last call; takes down how it is now. A file that has changed within the last
   * second counts as another: its next change may have the same time.
   */
  unchanged(call: FileCall, now: number): boolean {
    const stamp = this.#stamp;
    const seconds = call.attribute(ATTRIBUTE.changeSeconds);
    const nanoseconds = call.attribute(ATTRIBUTE.changeNanoseconds);
    const modified =
      call.attribute(ATTRIBUTE.modifySeconds) * 1e9 + call.attribute(ATTRIBUTE.modifyNanoseconds);
    const size = call.attribute(ATTRIBUTE.size + 1) * 2 ** 32 + call.attribute(ATTRIBUTE.size);
    const same =
      stamp[0] === seconds && stamp[1] === nanoseconds && stamp[2] === modified && stamp[3] === size;
    const settled = now / 1000 - seconds > 1;
    stamp[0] = settled ? seconds : NaN;
    stamp[1] = nanoseconds;
    stamp[2] = modified;
    stamp[3] = size;
    return same;
  }
}

/** Device and inode number of what a call has the attributes of. Inode numbers above 2^53 are not numbers here. */
export function deviceOf(call: FileCall): number {
  return call.attribute(ATTRIBUTE.deviceMajor) * 2 ** 32 + call.attribute(ATTRIBUTE.deviceMinor);
}

export function inodeOf(call: FileCall): number | string {
  const low = call.attribute(ATTRIBUTE.inode);
  const high = call.attribute(ATTRIBUTE.inode + 1);
  return high < 2 ** 21 ? high * 2 ** 32 + low : `${high}:${low}`;
}

/**
 * The files that the guest knows, by the numbers that it has for them: an index below and a generation above, so that
 * the number of a file that was forgotten names no other one.
 */
export class NodeTable {
  readonly #nodes: (Node | undefined)[] = [undefined, undefined];
  readonly #generations: number[] = [0, 0];
  #free: number[] = [];
  #byInode = new Map<number, Map<number | string, Node>>();
  readonly #close: (fd: number) => void;
  /** files in the table */
  count = 0;

  /** @param close is given descriptors that nobody needs any more */
  constructor(close: (fd: number) => void) {
    this.#close = close;
  }

  /** The root, which is always there; `call` has its attributes. Its descriptor stays the caller's. */
  setRoot(fd: number, call: FileCall): void {
    const root = new Node(
      ROOT_ID,
      0,
      fd,
      call.attribute(ATTRIBUTE.mode) & S_IFMT,
      deviceOf(call),
      inodeOf(call),
    );
    root.lookups = 1;
    root.users = 1;
    this.#nodes[ROOT_ID] = root;
    this.#map(root.device).set(root.inode, root);
  }

  get root(): Node {
    return this.#nodes[ROOT_ID]!;
  }

  /** The node of this number, or undefined where there is none. */
  get(low: number, high: number): Node | undefined {
    const node = this.#nodes[low];
    return node?.generation === high ? node : undefined;
  }

  /**
   * The node of what was looked up, with `call.newNode` in it or closed, and one lookup more.
   * @param fd the table's from here on
   */
  add(fd: number, call: FileCall): Node {
    const device = deviceOf(call);
    const inode = inodeOf(call);
    const known = this.#map(device).get(inode);
    if (known !== undefined) {
      // Quick: the file stays open by the other one.
      closeSync(fd);
      known.lookups++;
      return known;
    }
    const index = this.#free.pop() ?? this.#nodes.length;
    const generation = this.#generations[index] ?? 0;
    return this.place(
      new Node(index, generation, fd, call.attribute(ATTRIBUTE.mode) & S_IFMT, device, inode),
      1,
    );
  }

  /** Puts a node at its index. */
  place(node: Node, lookups: number): Node {
    while (this.#nodes.length <= node.index) {
      this.#nodes.push(undefined);
      this.#generations.push(0);
    }
    this.#nodes[node.index] = node;
    this.#generations[node.index] = node.generation;
    node.lookups = lookups;
    this.#map(node.device).set(node.inode, node);
    this.count++;
    return node;
  }

  /** Whether an index is free. */
  isFree(index: number): boolean {
    return index > ROOT_ID && this.#nodes[index] === undefined;
  }

  /** The guest's kernel has forgotten so many lookups; more than it has had count as all. */
  forget(low: number, high: number, lookups: number): void {
    const node = this.get(low, high);
    if (node === undefined || node.index === ROOT_ID) return;
    node.lookups -= Math.min(node.lookups, lookups);
    if (node.lookups === 0) this.#drop(node);
  }

  hold(node: Node): void {
    node.users++;
  }

  release(node: Node): void {
    node.users--;
    if (!node.known && node.users === 0) this.#shut(node);
  }

  /** Forgets all but the root. */
  clear(): void {
    for (const node of this.#nodes) if (node !== undefined && node.index !== ROOT_ID) this.#drop(node);
  }

  /** All but the root. */
  *all(): Generator<Node> {
    for (const node of this.#nodes) if (node !== undefined && node.index !== ROOT_ID) yield node;
  }

  /** After nodes were placed: which indices are free. */
  settle(): void {
    this.#free = [];
    for (let i = this.#nodes.length - 1; i > ROOT_ID; i--)
      if (this.#nodes[i] === undefined) this.#free.push(i);
  }

  #drop(node: Node): void {
    node.known = false;
    node.lookups = 0;
    this.#nodes[node.index] = undefined;
    this.#generations[node.index] = (node.generation + 1) >>> 0;
    this.#free.push(node.index);
    const byInode = this.#map(node.device);
    if (byInode.get(node.inode) === node) byInode.delete(node.inode);
    this.count--;
    if (node.users === 0) this.#shut(node);
  }

  #shut(node: Node): void {
    if (node.fd >= 0) this.#close(node.fd);
  }

  #map(device: number): Map<number | string, Node> {
    let map = this.#byInode.get(device);
    if (map === undefined) this.#byInode.set(device, (map = new Map<number | string, Node>()));
    return map;
  }
}
