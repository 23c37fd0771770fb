/** Leases of a network over restarts of its switch. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type { Lease, Leases } from './leases.ts';

const WRITE_DELAY_MS = 200;
const LONGEST_FILE = 1024 * 1024;

/** What is kept of a lease. */
export type KeptLease = Pick<Lease, 'mac' | 'address' | 'expires'>;

export class LeaseFile {
  readonly #path: string;
  #timer: NodeJS.Timeout | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /** What is in the file, as far as it makes sense. */
  read(): KeptLease[] {
    try {
      const text = readFileSync(this.#path, 'utf8');
      const value: unknown = text.length > LONGEST_FILE ? [] : JSON.parse(text);
      return Array.isArray(value) ? value.filter(isLease) : [];
    } catch {
      return [];
    }
  }

  /** Writes them soon. */
  changed(leases: Leases): void {
    this.#timer ??= setTimeout(() => this.flush(leases), WRITE_DELAY_MS);
  }

  flush(leases: Leases): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const kept: KeptLease[] = leases
      .all()
      .filter(({ bound }) => bound)
      .map(({ mac, address, expires }) => ({ mac, address, expires: Math.round(expires) }));
    try {
      writeFileSync(`${this.#path}.new`, `${JSON.stringify(kept)}\n`, { mode: 0o600 });
      renameSync(`${this.#path}.new`, this.#path);
    } catch {
      // Addresses follow from the MACs anyway, mostly.
    }
  }
}

function isLease(value: unknown): value is KeptLease {
  if (typeof value !== 'object' || value === null) return false;
  const { mac, address, expires } = value as Partial<Record<keyof KeptLease, unknown>>;
  return (
    typeof mac === 'string' &&
    /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac) &&
    Number.isInteger(address) &&
    Number.isFinite(expires)
  );
}
