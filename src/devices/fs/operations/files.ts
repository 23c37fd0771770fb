import { FILE } from '../../../kvm/file-calls.ts';
import { adopt, E, handleAt, NEXT, nodeAt, type FuseContext, type Operation } from '../context.ts';
import type { Handle } from '../handles.ts';
import {
  ENTRY_OUT,
  FOPEN,
  FSYNC_DATA,
  INIT,
  MAX_TRANSFER,
  O,
  OPEN_KILL_SUIDGID,
  OPEN_OUT,
  S_IFREG,
  WRITE_FLAGS,
} from '../protocol.ts';
import type { Node } from '../nodes.ts';
import type { FuseRequest } from '../request.ts';

/** Modes of fallocate(2): keep the size; punch a hole; zeros. */
const FALLOCATE_MODES = 0x01 | 0x02 | 0x10;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

function writesBack({ session }: FuseContext): boolean {
  return ((session?.flags ?? 0) & INIT.writebackCache) !== 0;
}

/**
 * Flags for the host's open(2). Appending is left to each write: a page that the guest writes back later has its place
 * whatever the file was opened for. A kernel that writes back reads through such a file as well.
 */
function hostFlags(context: FuseContext, flags: number): number {
  const asked = flags & O.accessMode;
  const mode = asked === O.writeOnly && writesBack(context) ? O.readWrite : asked;
  return mode | (flags & (O.truncate | O.dataSync | O.sync));
}

const writes = (flags: number): boolean => (flags & (O.accessMode | O.truncate)) !== 0;

function openFlags(context: FuseContext, node: Node, request: FuseRequest): number {
  switch (context.folder.cache) {
    case 'none':
      return FOPEN.directIo;
    case 'always':
      return FOPEN.keepCache;
    case 'auto':
      return node.unchanged(request.call, Date.now()) ? FOPEN.keepCache : 0;
  }
}

/** struct fuse_open_out */
function opened(context: FuseContext, handle: Handle, request: FuseRequest, at: number): void {
  const { reply } = context;
  reply.u32(at, handle.index);
  reply.u32(at + 4, handle.generation);
  reply.u32(at + 8, openFlags(context, handle.node, request));
  reply.u32(at + 12, 0);
}

const open: Operation = {
  needs: 8,
  answers: OPEN_OUT,
  begin(context, request) {
    const flags = request.u32(0);
    if ((flags & O.accessMode) === O.accessMode) return E.EINVAL;
    if (context.folder.readOnly && writes(flags)) return E.EROFS;
    if (!context.mayOpen()) return E.ENFILE;
    const kills = (request.u32(4) & OPEN_KILL_SUIDGID) !== 0 && (flags & O.truncate) !== 0;
    request.value = hostFlags(context, flags) | (kills ? KILLS : 0);
    request.call.prepare(FILE.open, request.node!.fd, request.value & ~KILLS);
    return NEXT.run;
  },
  finish(context, request) {
    const { call, node } = request;
    const handle = context.handles.add(call.newFd, node!, request.value & ~KILLS & ~O.truncate, undefined);
    if ((request.value & KILLS) !== 0) dropPrivileges(context, request, handle);
    opened(context, handle, request, 0);
    return OPEN_OUT;
  },
  error: writeOnlyAfterAll,
};

/** a flag of ours among those of open(2), where these have none */
const KILLS = 1 << 30;

/** A file that this user may write and not read can be written all the same. */
function writeOnlyAfterAll(context: FuseContext, request: FuseRequest, error: number): number {
  const flags = request.value & ~KILLS;
  const asked = request.u32(0) & O.accessMode;
  if (error !== E.EACCES || asked !== O.writeOnly || (flags & O.accessMode) !== O.readWrite) return error;
  request.value = (request.value & ~O.accessMode) | O.writeOnly;
  request.call.prepare(FILE.open, request.node!.fd, request.value & ~KILLS);
  const result = request.call.run();
  return result < 0 ? result : open.finish!(context, request, result);
}

/** What only root on the host would leave: for others the host's kernel does it. */
function dropPrivileges(context: FuseContext, { call }: FuseRequest, handle: Handle): void {
  if (!context.folder.privileged) return;
  call.prepare(FILE.dropPrivileges, handle.fd);
  call.run();
}

const create: Operation = {
  needs: 18,
  answers: ENTRY_OUT + OPEN_OUT,
  changes: true,
  begin(context, request) {
    const flags = request.u32(0);
    const { owners } = context.folder;
    if ((flags & O.accessMode) === O.accessMode) return E.EINVAL;
    if (!context.mayOpen()) return E.ENFILE;
    request.value = hostFlags(context, flags);
    request.call.prepare(FILE.create, request.node!.fd, request.value | (flags & O.exclusive));
    request.call.mode = request.u32(4);
    request.call.owner(owners.newUser(request.uid), owners.newGroup(request.gid));
    return request.name(16) < 0 ? E.EINVAL : NEXT.run;
  },
  finish(context, request) {
    const { newFd } = request.call;
    const node = adopt(context, request.call);
    const handle = context.handles.add(newFd, node, request.value & ~O.truncate, undefined);
    context.reply.entry(0, node, request.call);
    opened(context, handle, request, ENTRY_OUT);
    return ENTRY_OUT + OPEN_OUT;
  },
};

const read: Operation = {
  needs: 24,
  transfers: true,
  begin(context, request) {
    const handle = handleAt(context, request, 0);
    const size = request.u32(16);
    if (handle === undefined || (handle.flags & O.accessMode) === O.writeOnly) return E.EBADF;
    if (handle.node.type !== S_IFREG) return E.EISDIR;
    if (size > MAX_TRANSFER || !request.hasRoom(size)) return E.EINVAL;
    return context.transfer(request, handle, request.u64(8), size, 'read');
  },
};

/** struct fuse_write_out */
function written({ reply }: FuseContext, _: FuseRequest, result: number): number {
  reply.u32(0, result);
  reply.u32(4, 0);
  return 8;
}

const write: Operation = {
  needs: 40,
  answers: 8,
  changes: true,
  begin(context, request) {
    const handle = handleAt(context, request, 0);
    const size = request.u32(16);
    const how = request.u32(20);
    if (handle === undefined || (handle.flags & O.accessMode) === 0) return E.EBADF;
    if (handle.node.type !== S_IFREG) return E.EISDIR;
    if (size > MAX_TRANSFER || request.payload < size) return E.EINVAL;
    if ((how & WRITE_FLAGS.killSuidgid) !== 0) dropPrivileges(context, request, handle);
    const appends = (request.u32(32) & O.append) !== 0 && (how & WRITE_FLAGS.cache) === 0;
    const kind = appends && !writesBack(context) ? 'append' : 'write';
    return context.transfer(request, handle, request.u64(8), size, kind);
  },
  finish: written,
};

const release: Operation = {
  needs: 24,
  begin(context, request) {
    const handle = handleAt(context, request, 0);
    if (handle === undefined) return E.EBADF;
    context.handles.remove(handle);
    return NEXT.finish;
  },
};

const fsync: Operation = {
  needs: 16,
  begin(context, request) {
    const handle = handleAt(context, request, 0);
    if (handle === undefined) return E.EBADF;
    request.handle = handle;
    request.call.prepare(FILE.sync, handle.fd, request.u32(8) & FSYNC_DATA);
    return NEXT.start;
  },
};

const fallocate: Operation = {
  needs: 32,
  changes: true,
  begin(context, request) {
    const handle = handleAt(context, request, 0);
    const mode = request.u32(24);
    if (handle === undefined || (handle.flags & O.accessMode) === 0) return E.EBADF;
    if ((mode & ~FALLOCATE_MODES) !== 0) return E.EOPNOTSUPP;
    request.handle = handle;
    request.call.prepare(FILE.allocate, handle.fd, mode);
    request.call.range(request.u64(8), request.u64(16));
    return NEXT.start;
  },
};

const lseek: Operation = {
  needs: 24,
  answers: 8,
  begin(context, request) {
    const handle = handleAt(context, request, 0);
    const whence = request.u32(16);
    if (handle === undefined) return E.EBADF;
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return E.EINVAL;
    request.handle = handle;
    request.call.prepare(FILE.seek, handle.fd, whence);
    request.call.range(request.u64(8), 0);
    return NEXT.run;
  },
  finish({ reply }, _, result) {
    reply.u64(0, result);
    return 8;
  },
};

const copyFileRange: Operation = {
  needs: 56,
  answers: 8,
  changes: true,
  begin(context, request) {
    const from = handleAt(context, request, 0);
    const node = nodeAt(context, request, 16);
    if (node === undefined) return E.ESTALE;
    const to = context.handles.get(request.u32(24), request.u32(28), node);
    if (from === undefined || to === undefined) return E.EBADF;
    if (request.u64(48) !== 0) return E.EINVAL;
    request.handle = from;
    request.otherNode = node;
    request.otherHandle = to;
    request.call.prepare(FILE.copyRange, from.fd, 0, to.fd);
    request.call.range(request.u64(8), request.u64(40), request.u64(32));
    return NEXT.start;
  },
  finish: written,
};

export const files = { open, create, read, write, release, fsync, fallocate, lseek, copyFileRange } as const;
