import { constants } from 'node:os';
import type { FileCall } from '../../kvm/file-calls.ts';
import type { SharedFolder } from './folder.ts';
import type { Handle, HandleTable } from './handles.ts';
import type { Node, NodeTable } from './nodes.ts';
import type { Reply } from './reply.ts';
import type { FuseRequest } from './request.ts';

/** Errors as the answers carry them. */
const negated = <const Name extends keyof typeof constants.errno>(...names: Name[]): Record<Name, number> =>
  Object.fromEntries(names.map((name) => [name, -constants.errno[name]])) as Record<Name, number>;

export const E = {
  ...negated('EACCES', 'EBADF', 'EINVAL', 'EIO', 'EISDIR', 'EMFILE', 'ENFILE', 'ENODATA', 'ENOENT', 'ENOSYS'),
  ...negated(
    'ENOTDIR',
    'ENXIO',
    'EOPNOTSUPP',
    'EPERM',
    'EPROTO',
    'ERANGE',
    'EROFS',
    'ESTALE',
    'EXDEV',
    'E2BIG',
  ),
};

/** What becomes of a request once it was looked at; or a negative errno, with which it is answered. */
export const NEXT = {
  /** its call is prepared, and fast on a local file system */
  run: 0,
  /** its call is prepared, and may take long */
  start: 1,
  /** it needs no call */
  finish: 2,
  /** somebody else goes on with it */
  elsewhere: 3,
  /** it has no answer */
  silent: 4,
} as const;

/** What the guest's kernel and we have agreed on. */
export type Session = {
  /** minor version of the protocol */
  readonly minor: number;
  /** flags of INIT */
  readonly flags: number;
  readonly flags2: number;
};

/** What operations work with. */
export type FuseContext = {
  readonly folder: SharedFolder;
  readonly nodes: NodeTable;
  readonly handles: HandleTable;
  readonly reply: Reply;
  /** undefined before INIT */
  readonly session: Session | undefined;
  /** Whether the process may have another file open; once it may not, the log is told. */
  mayOpen(): boolean;
  /** A descriptor that nobody needs. */
  discard(fd: number): void;
  begin(session: Session): void;
  /** Forgets all that the guest has known and opened. */
  end(): void;
  /** Has the ring read into the guest's memory, or write from there. */
  transfer(request: FuseRequest, handle: Handle, offset: number, length: number, how: Transfer): number;
};

export type Transfer = 'read' | 'write' | 'append';

/** One kind of request. Neither function throws. */
export type Operation = {
  /** bytes behind the header that it has at least */
  readonly needs: number;
  /** bytes behind the header that its answer has at most, or at least where that varies; default 0 */
  readonly answers?: number;
  /** changes something: refused where the folder is read-only */
  readonly changes?: true;
  /** does not name a node in its header */
  readonly anyNode?: true;
  /** reads into the guest's own memory, where its answer is then but for the header */
  readonly transfers?: true;
  /** may come before INIT */
  readonly early?: true;
  /** looks at the request and prepares its call; one of {@link NEXT} or a negative errno */
  begin(context: FuseContext, request: FuseRequest): number;
  /** Makes the answer of a call that gave no error; returns its length without the header, or a negative errno. */
  finish?(context: FuseContext, request: FuseRequest, result: number): number;
  /** the errno that the guest gets for the host's */
  error?(context: FuseContext, request: FuseRequest, error: number): number;
};

/** The second node that a request names, at `offset` behind its header. */
export function nodeAt(context: FuseContext, request: FuseRequest, offset: number): Node | undefined {
  const node = context.nodes.get(request.u32(offset), request.u32(offset + 4));
  return node === undefined || node.fd < 0 ? undefined : node;
}

/** The open file that a request names, at `offset` behind its header; of the node of its header. */
export function handleAt(context: FuseContext, request: FuseRequest, offset: number): Handle | undefined {
  return context.handles.get(request.u32(offset), request.u32(offset + 4), request.node!);
}

/** The node of an O_PATH descriptor that a call has made. */
export function adopt(context: FuseContext, call: FileCall): Node {
  return context.nodes.add(call.newNode, call);
}
