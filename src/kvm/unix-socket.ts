/** Unix stream sockets by their descriptors, for {@link FramePort.open}. All of these throw KvmError. */
import { native, type NativeUnixListener } from './native.ts';

/** A connection to whoever listens at `path`. */
export function connectUnix(path: string): number {
  return native().unixSocket.connect(path);
}

/** Two sockets that are connected to each other. */
export function unixPair(): readonly [number, number] {
  return native().unixSocket.pair();
}

/** Hands a descriptor to whoever is at the other end, together with a byte. Ours stays open. */
export function sendDescriptor(socket: number, fd: number): void {
  native().unixSocket.sendDescriptor(socket, fd);
}

/** The descriptor that came with the next byte; undefined where there is no byte yet, or one without. */
export function receiveDescriptor(socket: number): number | undefined {
  const fd = native().unixSocket.receiveDescriptor(socket);
  return fd < 0 ? undefined : fd;
}

/**
 * A socket that others connect to, with mode 0600 from its first moment on. It keeps the process alive until it is
 * closed; removing its file is the caller's business.
 */
export class UnixListener {
  readonly #native: NativeUnixListener;

  /** @param connected is called with the descriptor of every new connection, the callee's to close */
  constructor(path: string, connected: (fd: number) => void) {
    this.#native = new (native().UnixListener)(path);
    this.#native.onConnection = () => {
      const fd = this.#native.accept();
      if (fd >= 0) connected(fd);
    };
  }

  close(): void {
    this.#native.close();
  }
}
