import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { ATTRIBUTE, FILE, FileCalls } from '../../kvm/file-calls.ts';
import type { GuestBuffers } from '../../kvm/guest-buffers.ts';
import { IO, type IoOwner, type IoRing } from '../../kvm/io-ring.ts';
import { gather } from '../gather.ts';
import { E, NEXT, type FuseContext, type Operation, type Session, type Transfer } from './context.ts';
import { Discarded } from './discarded.ts';
import type { SharedFolder } from './folder.ts';
import { HandleTable, type Handle } from './handles.ts';
import { deviceOf, inodeOf, NodeTable, type Node } from './nodes.ts';
import { operationOf } from './operations.ts';
import { IN_HEADER, OUT_HEADER, S_IFMT } from './protocol.ts';
import { Reply } from './reply.ts';
import { FuseRequest, WRITE_HEAD } from './request.ts';

/** Requests that the host has at a time; more wait in the queue. */
const REQUESTS = 128;

export type ServerOptions = {
  readonly folder: SharedFolder;
  readonly ring: IoRing;
  /** a request is over, with so many bytes in its writable part */
  readonly answered: (request: FuseRequest, written: number) => void;
  /** some of what was not answered at once is over */
  readonly batchEnd: () => void;
  readonly log: (line: string) => void;
};

/**
 * A FUSE server on a folder of the host: the other end of the guest's kernel. Calls that are quick are made within
 * {@link handle}; those that may take long are a thread's, and contents go between file and guest memory by the ring.
 */
export class FuseServer implements FuseContext, IoOwner {
  readonly folder: SharedFolder;
  readonly nodes: NodeTable;
  readonly handles: HandleTable;
  readonly reply: Reply;
  session: Session | undefined;
  /** guest memory; set before the first request */
  buffers: GuestBuffers | undefined;
  /** requests that the host has */
  inFlight = 0;
  readonly #options: ServerOptions;
  readonly #calls: FileCalls;
  readonly #discarded: Discarded;
  readonly #requests: readonly FuseRequest[];
  readonly #free: FuseRequest[];
  /** which mount of the file system this is */
  #mount = 0;
  #told = false;
  readonly #leaveBudget: () => void;

  constructor(options: ServerOptions) {
    const { folder } = options;
    this.#options = options;
    this.folder = folder;
    this.reply = new Reply(folder.owners, folder.timeouts);
    this.#calls = new FileCalls(REQUESTS + 1);
    const [first, ...others] = this.#calls.calls;
    this.#requests = others.map((call) => new FuseRequest(call));
    this.#free = this.#requests.toReversed();
    this.#discarded = new Discarded(first!, this.#calls);
    this.nodes = new NodeTable((fd) => this.discard(fd));
    this.handles = new HandleTable((handle) => this.#closed(handle));
    first!.prepare(FILE.attributes, folder.fd);
    first!.run();
    this.nodes.setRoot(folder.fd, first!);
    this.#leaveBudget = folder.budget.add(
      () => this.nodes.count + this.handles.count + this.#discarded.count,
    );
    this.#calls.onDone = (index) => {
      if (index === 0) this.#discarded.done();
      else this.#done(this.#requests[index - 1]!);
    };
    this.#calls.onBatchEnd = () => this.#options.batchEnd();
  }

  /** A request's place, or undefined where the host has enough to do. */
  take(): FuseRequest | undefined {
    return this.#free.pop();
  }

  /** A place that was taken for nothing. */
  giveBack(request: FuseRequest): void {
    this.#free.push(request);
  }

  /** Takes a request on, whose chain is in its place. */
  handle(request: FuseRequest): void {
    const chain = request.chain!;
    request.session = this.#mount;
    // Nothing is done for which there is no header to answer to.
    if (chain.readable.byteLength < IN_HEADER) {
      this.#release(request, 0);
      return;
    }
    const sane = request.load(chain);
    const operation = operationOf(request.opcode);
    if (!sane) this.#fail(request, E.EINVAL);
    else if (operation === undefined) this.#fail(request, E.ENOSYS);
    else this.#begin(request, operation);
  }

  /** After a batch of requests: what is to be told to the host is. */
  commit(): void {
    this.#options.ring.submit();
    this.#discarded.flush();
  }

  // ---- what operations work with

  mayOpen(): boolean {
    if (!this.folder.budget.exhausted) return true;
    this.#tellFull();
    return false;
  }

  discard(fd: number): void {
    if (fd >= 0) this.#discarded.add(fd);
  }

  begin(session: Session): void {
    this.session = session;
  }

  end(): void {
    this.session = undefined;
    this.#mount++;
    this.handles.clear();
    this.nodes.clear();
  }

  transfer(request: FuseRequest, handle: Handle, offset: number, length: number, how: Transfer): number {
    if (!Number.isSafeInteger(offset + length)) return E.EINVAL;
    const { vector } = request;
    const { readable, writable } = request.chain!;
    vector.clear();
    if (how === 'read') gather(vector, this.buffers!, writable, OUT_HEADER, length);
    else gather(vector, this.buffers!, readable, WRITE_HEAD, length);
    handle.users++;
    request.handle = handle;
    this.inFlight++;
    this.#options.ring.queue(IO[how], handle.fd, offset, length, vector, this, request.call.index - 1);
    return NEXT.elsewhere;
  }

  // ---- to go on where another machine was saved

  /** The file at these names, where it is of this type; its descriptor is the caller's. Names are latin1. */
  find(
    names: readonly string[],
    type: number,
  ): { fd: number; device: number; inode: number | string } | undefined {
    const { call } = this.#requests[0]!;
    let fd = this.folder.fd;
    let result = names.length > 0 ? 0 : E.ENOENT;
    for (const name of names) {
      const length = call.data.length > name.length ? Buffer.from(name, 'latin1').copy(call.data) : 0;
      call.prepare(FILE.lookUp, fd);
      call.name(0, length);
      result = call.run();
      if (fd !== this.folder.fd) closeSync(fd);
      if (result < 0) return undefined;
      fd = call.newNode;
    }
    if (result === 0 && (call.attribute(ATTRIBUTE.mode) & S_IFMT) === type) {
      return { fd, device: deviceOf(call), inode: inodeOf(call) };
    }
    if (fd !== this.folder.fd) closeSync(fd);
    return undefined;
  }

  /** Opens a file once more; -1 where that cannot be: each use of it fails then. */
  reopen(node: Node, flags: number): number {
    if (node.fd < 0) return -1;
    const { call } = this.#requests[0]!;
    call.prepare(FILE.open, node.fd, flags);
    return call.run() < 0 ? -1 : call.newFd;
  }

  // ---- the ring's

  completed(cookie: number, result: number): void {
    const request = this.#requests[cookie]!;
    this.inFlight--;
    this.handles.release(request.handle!);
    if (result < 0) this.#fail(request, result);
    else this.#finish(request, operationOf(request.opcode)!, result);
  }

  batchEnd(): void {
    this.#options.batchEnd();
  }

  /** Blocks until the ring touches no guest memory for it. */
  quiesce(): void {
    this.#options.ring.drain(this);
  }

  /** Waits for all that is under way, and closes all files. */
  close(): void {
    this.quiesce();
    this.end();
    this.#calls.onDone = this.#calls.onBatchEnd = undefined;
    this.#calls.close();
    for (const request of this.#requests) if (request.started) this.#done(request);
    this.#discarded.close();
    this.#leaveBudget();
  }

  #begin(request: FuseRequest, operation: Operation): void {
    const refusal = this.#refusal(request, operation);
    if (refusal !== 0) {
      this.#fail(request, refusal);
      return;
    }
    const next = operation.begin(this, request);
    switch (next) {
      case NEXT.run:
        if (this.folder.slow) this.#start(request);
        else this.#over(request, operation, request.call.run());
        return;
      case NEXT.start:
        this.#start(request);
        return;
      case NEXT.finish:
        this.#finish(request, operation, 0);
        return;
      case NEXT.elsewhere:
        return;
      case NEXT.silent:
        this.#release(request, 0);
        return;
      default:
        this.#fail(request, next);
    }
  }

  /** An errno where the request is refused before its operation looks at it, or 0. */
  #refusal(request: FuseRequest, operation: Operation): number {
    if (this.session === undefined && operation.early !== true) return E.EIO;
    if (!request.holds(operation.needs)) return E.EINVAL;
    if (operation.answers !== undefined && !request.hasRoom(operation.answers)) return E.EINVAL;
    if (operation.changes === true && this.folder.readOnly) return E.EROFS;
    if (operation.anyNode === true) return 0;
    const node = this.nodes.get(request.nodeLow, request.nodeHigh);
    if (node === undefined || node.fd < 0) return E.ESTALE;
    request.node = node;
    // An operation that changes something must not be done where nobody can be told.
    return request.chain!.writable.byteLength < OUT_HEADER ? E.EINVAL : 0;
  }

  /** Has a thread carry the call out; what it works on stays open meanwhile. */
  #start(request: FuseRequest): void {
    const { node, otherNode, handle, otherHandle } = request;
    if (node !== undefined) this.nodes.hold(node);
    if (otherNode !== undefined) this.nodes.hold(otherNode);
    if (handle !== undefined) handle.users++;
    if (otherHandle !== undefined) otherHandle.users++;
    this.inFlight++;
    request.started = true;
    this.#calls.start(request.call);
  }

  #done(request: FuseRequest): void {
    const { node, otherNode, handle, otherHandle, call } = request;
    this.inFlight--;
    request.started = false;
    if (request.session === this.#mount) this.#over(request, operationOf(request.opcode)!, call.result);
    else {
      this.discard(call.newFd);
      this.discard(call.newNode);
      this.#fail(request, E.EIO);
    }
    if (node !== undefined) this.nodes.release(node);
    if (otherNode !== undefined) this.nodes.release(otherNode);
    if (handle !== undefined) this.handles.release(handle);
    if (otherHandle !== undefined) this.handles.release(otherHandle);
  }

  #over(request: FuseRequest, operation: Operation, result: number): void {
    if (result >= 0) {
      this.#finish(request, operation, result);
      return;
    }
    const error = result === -constants.errno.EMFILE ? E.ENFILE : result;
    if (error === E.ENFILE) this.#tellFull();
    const answer = operation.error?.(this, request, error) ?? error;
    if (answer < 0) this.#fail(request, answer);
    else this.#answer(request, answer);
  }

  #finish(request: FuseRequest, operation: Operation, result: number): void {
    // Its bytes are there already, behind where the header goes.
    if (operation.transfers === true) {
      this.#send(request, OUT_HEADER, OUT_HEADER + result);
      return;
    }
    const length = operation.finish?.(this, request, result) ?? 0;
    if (length < 0) this.#fail(request, length);
    else this.#answer(request, length);
  }

  #answer(request: FuseRequest, length: number): void {
    // An answer of a length that varies, for which the guest has made too little room.
    if (request.hasRoom(length)) this.#send(request, OUT_HEADER + length, OUT_HEADER + length);
    else this.#fail(request, E.EINVAL);
  }

  /** @param ours bytes of the answer that are in `reply` */
  #send(request: FuseRequest, ours: number, length: number): void {
    const { reply } = this;
    reply.header(length, 0, request.uniqueLow, request.uniqueHigh);
    request.chain!.writable.write(0, reply.bytes.subarray(0, ours));
    this.#release(request, length);
  }

  #fail(request: FuseRequest, error: number): void {
    const { reply } = this;
    const { writable } = request.chain!;
    if (writable.byteLength < OUT_HEADER) {
      this.#release(request, 0);
      return;
    }
    reply.header(OUT_HEADER, error, request.uniqueLow, request.uniqueHigh);
    writable.write(0, reply.bytes.subarray(0, OUT_HEADER));
    this.#release(request, OUT_HEADER);
  }

  #release(request: FuseRequest, written: number): void {
    this.#options.answered(request, written);
    request.chain = undefined;
    request.node = request.otherNode = undefined;
    request.handle = request.otherHandle = undefined;
    request.value = 0;
    this.#free.push(request);
  }

  #closed(handle: Handle): void {
    this.discard(handle.fd);
    this.nodes.release(handle.node);
  }

  #tellFull(): void {
    if (this.#told) return;
    this.#told = true;
    this.#options.log(
      `${this.folder.path}: the guest knows ${this.nodes.count} files of it, and no more may be open here` +
        ' (ENFILE); raise the limit of open files (`ulimit -Hn`) of who starts tsvm',
    );
  }
}
