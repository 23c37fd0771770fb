import { FILE, FILE_RESULT_AT, type FileCall } from '../../../kvm/file-calls.ts';
import { adopt, E, handleAt, NEXT, type FuseContext, type Operation } from '../context.ts';
import { FolderReader, type Handle } from '../handles.ts';
import { DIRENT, ENTRY_OUT, FOPEN, INIT, O, OPEN_OUT } from '../protocol.ts';
import type { FuseRequest } from '../request.ts';

/** What is read from the host at once. */
const READ_SIZE = 32 * 1024;
/** Where struct linux_dirent64 has its fields (getdents64(2)). */
const OFFSET = 8;
const LENGTH = 16;
const TYPE = 18;
const NAME = 19;
const DOT = 0x2e;

const opendir: Operation = {
  needs: 8,
  answers: OPEN_OUT,
  begin(context, request) {
    if (!context.mayOpen()) return E.ENFILE;
    request.call.prepare(FILE.open, request.node!.fd, O.directory);
    return NEXT.run;
  },
  finish(context, request) {
    const { reply, folder } = context;
    const handle = context.handles.add(request.call.newFd, request.node!, O.directory, new FolderReader());
    reply.u32(0, handle.index);
    reply.u32(4, handle.generation);
    reply.u32(8, folder.cache === 'always' ? FOPEN.cacheDir | FOPEN.keepCache : 0);
    reply.u32(12, 0);
    return OPEN_OUT;
  },
};

function take(reader: FolderReader, call: FileCall, length: number): void {
  if (reader.entries.length === 0) reader.entries = new Uint8Array(READ_SIZE);
  reader.entries.set(call.data.subarray(FILE_RESULT_AT, FILE_RESULT_AT + length));
  reader.at = 0;
  reader.end = length;
  // Where the descriptor is now: behind the last one.
  for (let at = 0, next = 0; at < length; at = next) {
    next = at + u16(reader.entries, at + LENGTH);
    if (next > at && next < length) continue;
    reader.hostLow = u32(reader.entries, at + OFFSET);
    reader.hostHigh = u32(reader.entries, at + OFFSET + 4);
    break;
  }
}

function u16(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

function u32(bytes: Uint8Array, at: number): number {
  return (u16(bytes, at) | (u16(bytes, at + 2) << 16)) >>> 0;
}

/** The entries that are there, as far as the guest has room. */
function give(context: FuseContext, request: FuseRequest, plus: boolean): number {
  const reader = request.handle!.folder!;
  const { reply } = context;
  const { entries } = reader;
  const head = plus ? ENTRY_OUT : 0;
  const room = Math.min(request.u32(16), reply.room);
  let length = 0;
  while (reader.at < reader.end) {
    const from = reader.at;
    const nameAt = from + NAME;
    const nameLength = entries.indexOf(0, nameAt) - nameAt;
    const size = head + ((DIRENT + nameLength + 7) & ~7);
    if (length + size > room) break;
    reply.zero(length, size);
    if (plus)
      lookUp(context, request.handle!, request, entries.subarray(nameAt, nameAt + nameLength), length);
    const at = length + head;
    for (let i = 0; i < 16; i += 4) reply.u32(at + i, u32(entries, from + i));
    reply.u32(at + 16, nameLength);
    reply.u32(at + 20, entries[from + TYPE]!);
    reply.data(at + DIRENT, entries.subarray(nameAt, nameAt + nameLength));
    reader.nextLow = u32(entries, from + OFFSET);
    reader.nextHigh = u32(entries, from + OFFSET + 4);
    reader.at += u16(entries, from + LENGTH);
    length += size;
  }
  // No room for a single one: the guest would take it for the end.
  return length === 0 && reader.at < reader.end ? E.EINVAL : length;
}

/** The attributes that go with an entry; without them, the guest asks for them where it wants them. */
function lookUp(
  context: FuseContext,
  handle: Handle,
  request: FuseRequest,
  name: Uint8Array,
  at: number,
): void {
  const { call } = request;
  if (name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT))) return;
  if (!context.mayOpen()) return;
  call.data.set(name, FILE_RESULT_AT);
  call.prepare(FILE.lookUp, handle.fd);
  call.name(FILE_RESULT_AT, name.length);
  if (call.run() === 0) context.reply.entry(at, adopt(context, call), call);
}

function reads(plus: boolean): Operation {
  return {
    needs: 24,
    begin(context, request) {
      const handle = handleAt(context, request, 0);
      const low = request.u32(8);
      const high = request.u32(12);
      const size = request.u32(16);
      if (plus && ((context.session?.flags ?? 0) & INIT.doReaddirplus) === 0) return E.ENOSYS;
      if (handle === undefined) return E.EBADF;
      const reader = handle.folder;
      if (reader === undefined) return E.ENOTDIR;
      if (!request.hasRoom(Math.min(size, context.reply.room))) return E.EINVAL;
      request.handle = handle;
      const goesOn = low === reader.nextLow && high === reader.nextHigh;
      if (goesOn && reader.at < reader.end) return NEXT.finish;
      const seeks = low !== reader.hostLow || high !== reader.hostHigh ? 1 : 0;
      request.call.prepare(FILE.readFolder, handle.fd, seeks);
      request.call.position(low, high);
      request.call.room = READ_SIZE;
      request.value = 1;
      return NEXT.run;
    },
    finish(context, request, result) {
      const reader = request.handle!.folder!;
      if (request.value === 1) {
        if (result === 0) {
          reader.hostLow = reader.nextLow = request.u32(8);
          reader.hostHigh = reader.nextHigh = request.u32(12);
        }
        take(reader, request.call, result);
      }
      return give(context, request, plus);
    },
  };
}

export const folders = { opendir, readdir: reads(false), readdirplus: reads(true) } as const;
