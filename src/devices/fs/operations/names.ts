import { FILE } from '../../../kvm/file-calls.ts';
import { adopt, E, NEXT, nodeAt, type FuseContext, type Operation } from '../context.ts';
import { ENTRY_OUT, S_IFLNK } from '../protocol.ts';
import type { FuseRequest } from '../request.ts';

const AT_REMOVEDIR = 0x200;
/** flags of renameat2(2): not over something else, and both ways; a whiteout would be a device node */
const RENAME_FLAGS = 3;

/** Answers with what a call has found or made. */
function entry(context: FuseContext, request: FuseRequest): number {
  context.reply.entry(0, adopt(context, request.call), request.call);
  return ENTRY_OUT;
}

/** Gives what is made to the caller. */
function own(context: FuseContext, { call, uid, gid }: FuseRequest): void {
  const { owners } = context.folder;
  call.owner(owners.newUser(uid), owners.newGroup(gid));
}

const lookup: Operation = {
  needs: 2,
  answers: ENTRY_OUT,
  begin(context, request) {
    if (!context.mayOpen()) return E.ENFILE;
    request.call.prepare(FILE.lookUp, request.node!.fd);
    return request.name(0) < 0 ? E.EINVAL : NEXT.run;
  },
  finish: entry,
  error(context, request, error) {
    // another file system of the host, which this share is not of
    if (error === E.EXDEV) return E.EACCES;
    if (error !== E.ENOENT || context.folder.timeouts.negative === 0) return error;
    context.reply.negativeEntry(0);
    return ENTRY_OUT;
  },
};

/** Anything that makes a new name, with `needs` bytes before it. */
function maker(operation: typeof FILE.makeNode | typeof FILE.makeFolder, needs: number): Operation {
  return {
    needs: needs + 2,
    answers: ENTRY_OUT,
    changes: true,
    begin(context, request) {
      if (!context.mayOpen()) return E.ENFILE;
      request.call.prepare(operation, request.node!.fd);
      request.call.mode = request.u32(0);
      own(context, request);
      return request.name(needs) < 0 ? E.EINVAL : NEXT.run;
    },
    finish: entry,
  };
}

const symlink: Operation = {
  needs: 4,
  answers: ENTRY_OUT,
  changes: true,
  begin(context, request) {
    if (!context.mayOpen()) return E.ENFILE;
    request.call.prepare(FILE.makeLink, request.node!.fd);
    request.call.mode = S_IFLNK;
    own(context, request);
    const target = request.name(0);
    return target < 0 || request.other(target) < 0 ? E.EINVAL : NEXT.run;
  },
  finish: entry,
};

function remover(flags: number): Operation {
  return {
    needs: 2,
    changes: true,
    begin(_, request) {
      request.call.prepare(FILE.remove, request.node!.fd, flags);
      return request.name(0) < 0 ? E.EINVAL : NEXT.run;
    },
  };
}

/** @param names where the two names begin; the second form has flags before them */
function renamer(names: 8 | 16): Operation {
  return {
    needs: names + 4,
    changes: true,
    begin(context, request) {
      const flags = names === 16 ? request.u32(8) : 0;
      const to = nodeAt(context, request, 0);
      if (to === undefined) return E.ESTALE;
      if ((flags & ~RENAME_FLAGS) !== 0) return E.EINVAL;
      request.otherNode = to;
      request.call.prepare(FILE.rename, request.node!.fd, flags, to.fd);
      const other = request.name(names);
      return other < 0 || request.other(other) < 0 ? E.EINVAL : NEXT.run;
    },
  };
}

const link: Operation = {
  needs: 10,
  answers: ENTRY_OUT,
  changes: true,
  begin(context, request) {
    const from = nodeAt(context, request, 0);
    if (from === undefined) return E.ESTALE;
    request.otherNode = from;
    request.call.prepare(FILE.link, from.fd, 0, request.node!.fd);
    return request.name(8) < 0 ? E.EINVAL : NEXT.run;
  },
  finish(context, request) {
    const node = request.otherNode!;
    // Forgotten by a guest that does not wait for its own request.
    if (!node.known) return E.ESTALE;
    node.lookups++;
    context.reply.entry(0, node, request.call);
    return ENTRY_OUT;
  },
};

const forget: Operation = {
  needs: 8,
  anyNode: true,
  begin(context, request) {
    context.nodes.forget(request.nodeLow, request.nodeHigh, request.u64(0));
    return NEXT.silent;
  },
};

const batchForget: Operation = {
  needs: 8,
  anyNode: true,
  begin(context, request) {
    const count = request.u32(0);
    for (let i = 0, at = 8; i < count && request.holds(at + 16); i++, at += 16) {
      context.nodes.forget(request.u32(at), request.u32(at + 4), request.u64(at + 8));
    }
    return NEXT.silent;
  },
};

export const names = {
  lookup,
  mknod: maker(FILE.makeNode, 16),
  mkdir: maker(FILE.makeFolder, 8),
  symlink,
  unlink: remover(0),
  rmdir: remover(AT_REMOVEDIR),
  rename: renamer(8),
  rename2: renamer(16),
  link,
  forget,
  batchForget,
} as const;
