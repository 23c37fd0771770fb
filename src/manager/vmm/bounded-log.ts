import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';

/** A file that grows to a limit; then it becomes the old one (`.1`), and a new one begins. */
export class BoundedLog {
  readonly #path: string;
  readonly #limit: number;
  #fd: number;
  #size: number;

  /** @param limit in bytes; at most twice that is kept */
  constructor(path: string, limit: number) {
    this.#path = path;
    this.#limit = limit;
    this.#fd = openSync(path, 'a', 0o600);
    this.#size = fstatSync(this.#fd).size;
  }

  /** of the file, in bytes */
  get size(): number {
    return this.#size;
  }

  /** What cannot be written is lost: a full disk must not end a VM. */
  write(data: Uint8Array | string): void {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    try {
      if (this.#size + bytes.length > this.#limit) this.#turn();
      this.#size += writeSync(this.#fd, bytes);
    } catch {
      // Nobody is there to be told.
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #turn(): void {
    renameSync(this.#path, `${this.#path}.1`);
    const old = this.#fd;
    this.#fd = openSync(this.#path, 'a', 0o600);
    this.#size = 0;
    closeSync(old);
  }
}
