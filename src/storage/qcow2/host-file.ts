import { closeSync, constants, fstatSync, ftruncateSync, openSync } from 'node:fs';
import { type IoOperation, type IoOwner, type IoRing } from '../../kvm/io-ring.ts';
import type { IoVector } from '../../kvm/io-vector.ts';
import { StorageError } from '../disk.ts';
import { openError } from '../open-error.ts';

/**
 * The file that an image is in, with I/O as {@link IoRing} does it. Tests put others in its place, which lose what
 * was not synced, or delay and reorder it.
 */
export type HostFile = {
  readonly path: string;
  readonly readOnly: boolean;
  /** bytes; of now */
  size(): number;
  /** whether bytes between the old and the new end read as zeros when the file grows; not so on a block device */
  readonly grows: boolean;
  /** Numbers a buffer for the vectors of {@link queue}. */
  register(bytes: Uint8Array): number;
  unregister(buffer: number): void;
  /** The memory of a registered buffer, this file's or not. Empty where there is none. */
  bytes(buffer: number): Uint8Array;
  /** As `IoRing.queue`, on this file. */
  queue(
    operation: IoOperation,
    offset: number,
    length: number,
    vector: IoVector | undefined,
    owner: IoOwner,
    cookie: number,
  ): void;
  submit(): void;
  drain(owner: IoOwner): void;
  /** @throws where the host cannot */
  truncate(size: number): void;
  close(): void;
};

const NOTHING = new Uint8Array(0);

/** @throws StorageError where the file cannot be opened, or is neither a regular file nor a block device */
export class RingFile implements HostFile {
  readonly path: string;
  readonly readOnly: boolean;
  readonly grows: boolean;
  readonly fd: number;
  readonly #ring: IoRing;
  #open = true;

  constructor(ring: IoRing, path: string, readOnly: boolean) {
    this.path = path;
    this.readOnly = readOnly;
    this.#ring = ring;
    this.fd = openImage(path, readOnly);
    const stat = fstatSync(this.fd);
    if (!stat.isFile()) {
      closeSync(this.fd);
      throw new StorageError(path, 'EINVAL', 'a qcow2 image must be a regular file');
    }
    this.grows = true;
  }

  size(): number {
    return fstatSync(this.fd).size;
  }

  register(bytes: Uint8Array): number {
    return this.#ring.register(bytes);
  }

  unregister(buffer: number): void {
    this.#ring.unregister(buffer);
  }

  bytes(buffer: number): Uint8Array {
    return this.#ring.bytes(buffer) ?? NOTHING;
  }

  queue(
    operation: IoOperation,
    offset: number,
    length: number,
    vector: IoVector | undefined,
    owner: IoOwner,
    cookie: number,
  ): void {
    this.#ring.queue(operation, this.fd, offset, length, vector, owner, cookie);
  }

  submit(): void {
    this.#ring.submit();
  }

  drain(owner: IoOwner): void {
    this.#ring.drain(owner);
  }

  truncate(size: number): void {
    ftruncateSync(this.fd, size);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.fd);
  }
}

function openImage(path: string, readOnly: boolean): number {
  try {
    // Not to hang on a FIFO; regular files take no notice of O_NONBLOCK.
    return openSync(path, (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK);
  } catch (error) {
    throw openError(path, error);
  }
}
