/** The process that is a network's switch: started by the first VM, ended after the last one. */
import { closeSync, openSync, rmSync } from 'node:fs';
import { UnixListener } from '../../kvm/unix-socket.ts';
import { StorageError } from '../../storage/disk.ts';
import { lockOpenFile } from '../../storage/file-lock.ts';
import { LeaseFile } from './lease-file.ts';
import { VmNetwork } from './network.ts';
import type { VmnetPlace } from './place.ts';

/** How long a network without VMs lives, in milliseconds: one that restarts finds it as it was. */
const LINGER_MS = 5000;

export type ServeOptions = {
  /** takes lines of what happens */
  readonly log: (line: string) => void;
  /** ends it; its VMs find themselves without a link */
  readonly signal: AbortSignal;
  /** default {@link LINGER_MS} */
  readonly lingerMs?: number;
};

/**
 * Serves a network until nobody is on it any more.
 * @returns false where another process does so already
 */
export async function serveVmnet(place: VmnetPlace, options: ServeOptions): Promise<boolean> {
  const lock = openSync(place.lock, 'a+', 0o600);
  try {
    lockOpenFile(lock, place.lock, 'write');
  } catch (error) {
    closeSync(lock);
    if (error instanceof StorageError && error.code === 'EBUSY') return false;
    throw error;
  }
  const { log, signal, lingerMs = LINGER_MS } = options;
  let end: () => void = () => undefined;
  const over = new Promise<void>((resolve) => (end = resolve));
  let timer = setTimeout(end, lingerMs);
  const network = new VmNetwork({
    name: place.name,
    leaseFile: new LeaseFile(place.leases),
    log,
    changed: (size) => {
      clearTimeout(timer);
      if (size === 0) timer = setTimeout(end, lingerMs);
    },
  });
  // A switch that was killed has left its own behind; nobody else has one, for we have the lock.
  rmSync(place.socket, { force: true });
  const listener = new UnixListener(place.socket, (fd) => network.connect(fd));
  signal.addEventListener('abort', end);
  if (signal.aborted) end();
  log('serving');
  await over;
  clearTimeout(timer);
  rmSync(place.socket, { force: true });
  listener.close();
  network.close();
  log('ended');
  closeSync(lock);
  return true;
}
