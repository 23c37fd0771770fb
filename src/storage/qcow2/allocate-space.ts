import { IO, IoRing, type IoOwner } from '../../kvm/io-ring.ts';
import { StorageError } from '../disk.ts';
import { RingFile } from './host-file.ts';

/** Reserves space of a file on the host, which the addon alone can ask for. @throws StorageError */
export async function allocateSpace(path: string, offset: number, length: number): Promise<void> {
  const ring = new IoRing({ entries: 8 });
  const file = new RingFile(ring, path, false);
  try {
    const result = await new Promise<number>((resolve) => {
      const owner: IoOwner = {
        completed: (_cookie, moved) => resolve(moved),
        batchEnd: () => undefined,
      };
      file.queue(IO.allocate, offset, length, undefined, owner, 0);
      file.submit();
    });
    if (result < 0)
      throw new StorageError(path, 'ENOSPC', `the host cannot reserve ${length} bytes: errno ${-result}`);
  } finally {
    file.close();
    ring.close();
  }
}
