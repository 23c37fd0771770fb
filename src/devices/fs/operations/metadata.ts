import { CHANGE, FILE, FILE_RESULT_AT } from '../../../kvm/file-calls.ts';
import { E, handleAt, NEXT, type FuseContext, type Operation } from '../context.ts';
import type { Node } from '../nodes.ts';
import { ATTR_OUT, FATTR, GETATTR_FH, O, S_IFDIR, S_IFLNK, S_IFREG, STATFS_OUT } from '../protocol.ts';
import type { FuseRequest } from '../request.ts';

/** The kernel's limit on values and lists (XATTR_SIZE_MAX, XATTR_LIST_MAX). */
const XATTR_LIMIT = 65536;
const XATTR_FLAGS = 3;
const USER_PREFIX = Buffer.from('user.');
const PATH_LIMIT = 4096;

function attributes(context: FuseContext, request: FuseRequest): number {
  context.reply.attributes(0, request.call);
  return ATTR_OUT;
}

const getattr: Operation = {
  needs: 16,
  answers: ATTR_OUT,
  begin(context, request) {
    const handle = (request.u32(0) & GETATTR_FH) !== 0 ? handleAt(context, request, 8) : undefined;
    request.handle = handle;
    request.call.prepare(FILE.attributes, handle?.fd ?? request.node!.fd);
    return NEXT.run;
  },
  finish: attributes,
};

// Where struct fuse_setattr_in has its fields.
const VALID = 0;
const FH = 8;
const SIZE = 16;
const ATIME = 32;
const MTIME = 40;
const ATIME_NS = 56;
const MTIME_NS = 60;
const MODE = 68;
const UID = 76;
const GID = 80;

/** The flags of a change of owner; a negative errno where the host cannot have such a one. */
function prepareOwner(context: FuseContext, request: FuseRequest, valid: number): number {
  const { owners } = context.folder;
  const user = (valid & FATTR.uid) !== 0 ? owners.hostUser(request.u32(UID)) : 0;
  const group = (valid & FATTR.gid) !== 0 ? owners.hostGroup(request.u32(GID)) : 0;
  if (user === undefined || group === undefined) return E.EPERM;
  request.call.owner(user, group);
  return ((valid & FATTR.uid) !== 0 ? CHANGE.user : 0) | ((valid & FATTR.gid) !== 0 ? CHANGE.group : 0);
}

function prepareTimes(request: FuseRequest, valid: number): number {
  const { call } = request;
  let flags = 0;
  if ((valid & FATTR.atime) !== 0) {
    flags |= (valid & FATTR.atimeNow) !== 0 ? CHANGE.accessTimeNow : CHANGE.accessTime;
    call.accessTime(request.u32(ATIME), request.u32(ATIME + 4), request.u32(ATIME_NS));
  }
  if ((valid & FATTR.mtime) !== 0) {
    flags |= (valid & FATTR.mtimeNow) !== 0 ? CHANGE.modifyTimeNow : CHANGE.modifyTime;
    call.modifyTime(request.u32(MTIME), request.u32(MTIME + 4), request.u32(MTIME_NS));
  }
  return flags;
}

const setattr: Operation = {
  needs: 88,
  answers: ATTR_OUT,
  changes: true,
  begin(context, request) {
    const { call } = request;
    const valid = request.u32(VALID);
    if ((valid & FATTR.fh) !== 0) {
      const handle = handleAt(context, request, FH);
      if (handle === undefined) return E.EBADF;
      // Only one that may write can change the size; anything else is the file's.
      if ((handle.flags & O.accessMode) !== 0) request.handle = handle;
    }
    call.prepare(FILE.change, request.node!.fd, 0, request.handle?.fd ?? -1);
    let flags = prepareOwner(context, request, valid);
    if (flags < 0) return flags;
    flags |= prepareTimes(request, valid);
    if ((valid & FATTR.mode) !== 0) flags |= CHANGE.mode;
    call.mode = request.u32(MODE);
    if ((valid & FATTR.size) !== 0) flags |= CHANGE.size;
    call.range(0, request.u64(SIZE));
    if ((valid & FATTR.killSuidgid) !== 0) flags |= CHANGE.dropPrivileges;
    call.flags = flags;
    // What frees many blocks takes its time.
    return (flags & CHANGE.size) !== 0 ? NEXT.start : NEXT.run;
  },
  finish: attributes,
};

const readlink: Operation = {
  needs: 0,
  answers: 1,
  begin(_, request) {
    if (request.node!.type !== S_IFLNK) return E.EINVAL;
    request.call.prepare(FILE.readLink, request.node!.fd);
    request.call.room = PATH_LIMIT;
    return NEXT.run;
  },
  finish(context, request, result) {
    const { reply } = context;
    reply.data(0, request.call.data.subarray(FILE_RESULT_AT, FILE_RESULT_AT + result));
    return result;
  },
};

// Numbers of the host's answer, in units of 64 bits, and where struct fuse_kstatfs has them.
const WIDE = 5;
const BSIZE = 40;
const NAMELEN = 44;
const FRSIZE = 48;

const statfs: Operation = {
  needs: 0,
  answers: STATFS_OUT,
  begin(_, request) {
    request.call.prepare(FILE.fileSystem, request.node!.fd);
    return NEXT.run;
  },
  finish({ reply }, { call }) {
    const from = FILE_RESULT_AT / 4;
    reply.zero(0, STATFS_OUT);
    for (let i = 0; i < 2 * WIDE; i++) reply.u32(4 * i, call.dataWords[from + i]!);
    reply.u32(BSIZE, call.dataWords[from + 10]!);
    reply.u32(NAMELEN, call.dataWords[from + 12]!);
    reply.u32(FRSIZE, call.dataWords[from + 14]!);
    return STATFS_OUT;
  },
};

/** What bears attributes of users' (xattr(7)). */
function bearsXattrs({ type }: Node): boolean {
  return type === S_IFREG || type === S_IFDIR;
}

/**
 * Sets the call's name. Attributes of users are the guest's own; those of the system and of security modules would be
 * the host's: labels, capabilities, access control lists.
 */
function xattrName(request: FuseRequest, offset: number): number {
  const next = request.name(offset);
  if (next < 0) return E.EINVAL;
  const at = request.nameAt(offset);
  for (let i = 0; i < USER_PREFIX.length; i++) {
    if (request.call.data[at + i] !== USER_PREFIX[i]) return E.EOPNOTSUPP;
  }
  return next;
}

const setxattr: Operation = {
  needs: 10,
  changes: true,
  begin(_, request) {
    const size = request.u32(0);
    const flags = request.u32(4);
    request.call.prepare(FILE.setXattr, request.node!.fd, flags);
    const value = xattrName(request, 8);
    if (value < 0) return value;
    if (!bearsXattrs(request.node!)) return E.EPERM;
    if (size > XATTR_LIMIT) return E.E2BIG;
    if (size > request.length - value || (flags & ~XATTR_FLAGS) !== 0) return E.EINVAL;
    request.call.other(value, size);
    return NEXT.run;
  },
};

/** Bytes where there was room for them, or their number where that was asked for. */
function sized({ reply }: FuseContext, { call, value: room }: FuseRequest, length: number): number {
  if (room === 0) {
    reply.zero(0, 8);
    reply.u32(0, length);
    return 8;
  }
  if (length > room) return E.ERANGE;
  reply.data(0, call.data.subarray(FILE_RESULT_AT, FILE_RESULT_AT + length));
  return length;
}

const getxattr: Operation = {
  needs: 10,
  answers: 8,
  begin(_, request) {
    const room = request.u32(0);
    request.call.prepare(FILE.getXattr, request.node!.fd);
    const next = xattrName(request, 8);
    if (next < 0) return next;
    if (!bearsXattrs(request.node!)) return E.ENODATA;
    request.value = room;
    request.call.room = Math.min(room, XATTR_LIMIT);
    return room > 0 && !request.hasRoom(Math.min(room, XATTR_LIMIT)) ? E.EINVAL : NEXT.run;
  },
  finish: sized,
};

const listxattr: Operation = {
  needs: 8,
  answers: 8,
  begin(_, request) {
    const room = (request.value = request.u32(0));
    if (room > 0 && !request.hasRoom(Math.min(room, XATTR_LIMIT))) return E.EINVAL;
    if (!bearsXattrs(request.node!)) return NEXT.finish;
    request.call.prepare(FILE.listXattr, request.node!.fd);
    request.call.room = XATTR_LIMIT;
    return NEXT.run;
  },
  finish(context, request, result) {
    const list = request.call.data.subarray(FILE_RESULT_AT, FILE_RESULT_AT + result);
    let kept = 0;
    for (let at = 0; at < result;) {
      const end = list.indexOf(0, at) + 1;
      if (end <= at) break;
      if (USER_PREFIX.every((byte, i) => list[at + i] === byte)) {
        list.copyWithin(kept, at, end);
        kept += end - at;
      }
      at = end;
    }
    return sized(context, request, kept);
  },
};

const removexattr: Operation = {
  needs: 2,
  changes: true,
  begin(_, request) {
    request.call.prepare(FILE.removeXattr, request.node!.fd);
    const next = xattrName(request, 0);
    if (next < 0) return next;
    return bearsXattrs(request.node!) ? NEXT.run : E.ENODATA;
  },
};

const syncfs: Operation = {
  needs: 0,
  begin(context, request) {
    request.call.prepare(FILE.syncAll, context.nodes.root.fd);
    return NEXT.start;
  },
};

export const metadata = {
  getattr,
  setattr,
  readlink,
  statfs,
  setxattr,
  getxattr,
  listxattr,
  removexattr,
  syncfs,
} as const;
