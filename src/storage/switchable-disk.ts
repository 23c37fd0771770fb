import type { Disk, DiskClient, DiskRequest } from './disk.ts';

/** A disk in whose place another one can be put, with the same contents, while nothing is in flight. */
export class SwitchableDisk implements Disk {
  #disk: Disk;
  #client: DiskClient | undefined;

  constructor(disk: Disk) {
    this.#disk = disk;
  }

  get current(): Disk {
    return this.#disk;
  }

  /** @param disk is this one's to close from here on; the one before is the caller's */
  switchTo(disk: Disk): void {
    if (this.#disk.inFlight > 0) throw new Error(`${this.path}: a disk that is in use cannot be switched`);
    if (disk.size !== this.size || disk.readOnly !== this.readOnly)
      throw new Error(`${disk.path}: a disk of another kind than ${this.path}`);
    this.#disk = disk;
    if (this.#client !== undefined) disk.attach(this.#client);
  }

  get path(): string {
    return this.#disk.path;
  }

  get size(): number {
    return this.#disk.size;
  }

  get readOnly(): boolean {
    return this.#disk.readOnly;
  }

  get blockSize(): number {
    return this.#disk.blockSize;
  }

  get discards(): boolean {
    return this.#disk.discards;
  }

  get discardGranularity(): number {
    return this.#disk.discardGranularity;
  }

  get inFlight(): number {
    return this.#disk.inFlight;
  }

  attach(client: DiskClient): void {
    this.#client = client;
    this.#disk.attach(client);
  }

  submit(request: DiskRequest): void {
    this.#disk.submit(request);
  }

  commit(): void {
    this.#disk.commit();
  }

  drain(): void {
    this.#disk.drain();
  }

  resize(size: number): Promise<void> {
    return this.#disk.resize(size);
  }

  close(): Promise<void> {
    return this.#disk.close();
  }
}
