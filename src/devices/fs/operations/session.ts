import { E, NEXT, type FuseContext, type Operation } from '../context.ts';
import {
  FUSE_LEAST_MINOR,
  FUSE_MAJOR,
  FUSE_MINOR,
  INIT,
  INIT2,
  INIT_OUT,
  MAX_PAGES,
  MAX_TRANSFER,
} from '../protocol.ts';

/** requests that the guest's kernel has under way before it holds others back */
const MAX_BACKGROUND = 64;
const CONGESTION = 48;
const NANOSECOND = 1;

/**
 * What is wanted of the kernel. Not wanted are: locks of the host (POSIX_LOCKS, FLOCK_LOCKS: the guest's own are right
 * within the guest, and a lock of the host's would hold a thread), access control lists (POSIX_ACL: the host's name the
 * host's users), DONT_MASK (needed for these alone), EXPORT_SUPPORT (needs `..`), NO_OPEN_SUPPORT and
 * NO_OPENDIR_SUPPORT (files have to be open to outlive their names).
 */
function wantedFlags({ folder }: FuseContext): number {
  let flags =
    INIT.asyncRead |
    INIT.atomicOTrunc |
    INIT.bigWrites |
    INIT.asyncDio |
    INIT.parallelDirops |
    INIT.maxPages |
    INIT.cacheSymlinks |
    INIT.handleKillprivV2 |
    INIT.initExt;
  // Its lookups are made one after the other, within one request.
  if (!folder.slow) flags |= INIT.doReaddirplus | INIT.readdirplusAuto;
  // Only where nobody else writes may the guest keep what it has not written yet, and its own idea of size and times.
  if (folder.cache === 'always') flags |= INIT.writebackCache;
  else flags |= INIT.autoInvalData;
  return flags;
}

const init: Operation = {
  needs: 16,
  answers: INIT_OUT,
  anyNode: true,
  early: true,
  begin(context, request) {
    const major = request.u32(0);
    const minor = request.u32(4);
    if (major < FUSE_MAJOR || (major === FUSE_MAJOR && minor < FUSE_LEAST_MINOR)) return E.EPROTO;
    return NEXT.finish;
  },
  finish(context, request) {
    const { reply } = context;
    reply.zero(0, INIT_OUT);
    reply.u32(0, FUSE_MAJOR);
    reply.u32(4, FUSE_MINOR);
    // A later protocol: the kernel asks once more, in ours.
    if (request.u32(0) > FUSE_MAJOR) return INIT_OUT;
    const minor = Math.min(request.u32(4), FUSE_MINOR);
    const offered = request.u32(12);
    const flags = offered & wantedFlags(context);
    const offered2 = (offered & INIT.initExt) !== 0 && request.holds(64) ? request.u32(16) : 0;
    const flags2 = context.folder.cache === 'none' ? offered2 & INIT2.directIoAllowMmap : 0;
    context.end();
    context.begin({ minor, flags, flags2 });
    const pages = (flags & INIT.maxPages) !== 0 ? MAX_PAGES : 32;
    reply.u32(8, Math.min(request.u32(8), MAX_TRANSFER));
    reply.u32(12, flags);
    reply.u32(16, MAX_BACKGROUND | (CONGESTION << 16));
    reply.u32(20, Math.min(pages * 4096, MAX_TRANSFER));
    reply.u32(24, NANOSECOND);
    reply.u32(28, pages);
    reply.u32(32, flags2);
    return INIT_OUT;
  },
};

const destroy: Operation = {
  needs: 0,
  anyNode: true,
  begin(context) {
    context.end();
    return NEXT.finish;
  },
};

/** Requests wait for nothing that could be given up. */
const interrupt: Operation = { needs: 0, anyNode: true, begin: () => NEXT.silent };

export const sessions = { init, destroy, interrupt } as const;
