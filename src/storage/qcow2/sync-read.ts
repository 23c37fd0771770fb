import { IO, type IoOperation, type IoOwner } from '../../kvm/io-ring.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import { StorageError } from '../disk.ts';
import type { HostFile } from './host-file.ts';

/** Most that one request moves. */
const PIECE = 4 * 2 ** 20;

/**
 * Reads a range, as far as the file goes, and waits for it: when an image is opened or looked through.
 * @throws StorageError
 */
export function readFully(file: HostFile, offset: number, length: number): Uint8Array {
  const size = file.size();
  const bytes = new Uint8Array(new ArrayBuffer(Math.max(0, Math.min(length, size - offset))));
  for (let at = 0; at < bytes.length; at += PIECE) {
    const piece = bytes.subarray(at, Math.min(bytes.length, at + PIECE));
    const moved = transfer(file, IO.read, offset + at, piece);
    if (moved < piece.length) return bytes.subarray(0, at + moved);
  }
  return bytes;
}

/** Writes, and waits for it. @throws StorageError */
export function writeFully(file: HostFile, offset: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; at += PIECE) {
    const piece = bytes.subarray(at, Math.min(bytes.length, at + PIECE));
    if (transfer(file, IO.write, offset + at, piece) < piece.length)
      throw new StorageError(file.path, 'EIO', `${piece.length} bytes cannot be written at ${offset + at}`);
  }
}

/** @throws StorageError */
export function syncFully(file: HostFile): void {
  transfer(file, IO.sync, 0, undefined);
}

function transfer(
  file: HostFile,
  operation: IoOperation,
  offset: number,
  bytes: Uint8Array | undefined,
): number {
  let result = 0;
  const owner: IoOwner = {
    completed: (_cookie, moved) => {
      result = moved;
    },
    batchEnd: () => undefined,
  };
  const vector = new IoVector();
  const buffer = bytes === undefined ? -1 : file.register(bytes);
  if (bytes !== undefined) vector.add(buffer, 0, bytes.length);
  file.queue(operation, offset, 0, bytes === undefined ? undefined : vector, owner, 0);
  file.submit();
  file.drain(owner);
  if (bytes !== undefined) file.unregister(buffer);
  if (result < 0) throw new StorageError(file.path, 'EIO', `I/O at ${offset} failed: errno ${-result}`);
  return result;
}
