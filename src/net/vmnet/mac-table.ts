/**
 * Which port of a switch a station is behind. A fixed number of places: what stations say can neither make it grow nor
 * make a search long, and a port that speaks for many of them takes no places from the others.
 */

/** A power of two. */
const PLACES = 4096;
/** An address lies at its hash or so many places after it. */
const REACH = 16;
/** Addresses that one port may have. */
const PORT_LIMIT = 256;
/** What has not been heard of for so long is forgotten (IEEE 802.1Q, 8.8.3: 300 s). */
const AGE_S = 300;

const NONE = -1;

/** Addresses are two numbers: the first 16 bits and the last 32. Times are seconds of any clock. */
export class MacTable {
  readonly #high = new Uint16Array(PLACES);
  readonly #low = new Uint32Array(PLACES);
  /** port, or NONE */
  readonly #port = new Int32Array(PLACES).fill(NONE);
  readonly #seen = new Float64Array(PLACES);
  readonly #perPort = new Map<number, number>();
  /** addresses that stay where they are */
  readonly #fixed = new Map<number, number>();

  /** places that are taken */
  get size(): number {
    return this.#port.reduce((sum, port) => sum + (port === NONE ? 0 : 1), 0);
  }

  /** An address that is at this port, whatever others say, until the port is forgotten. */
  fix(high: number, low: number, port: number): void {
    this.#fixed.set(keyOf(high, low), port);
  }

  /** A frame has come from this address. Returns false where that cannot be: a fixed address at another port. */
  learn(high: number, low: number, port: number, now: number): boolean {
    const owner = this.#fixed.size === 0 ? undefined : this.#fixed.get(keyOf(high, low));
    if (owner !== undefined) return owner === port;
    // No station has a group's address, or none (IEEE 802, 8.2).
    if ((high & 0x0100) !== 0 || (high === 0 && low === 0)) return false;
    let place = NONE;
    let oldest = Infinity;
    for (let i = 0, at = hash(high, low); i < REACH; i++, at = (at + 1) & (PLACES - 1)) {
      const used = this.#port[at] !== NONE;
      if (used && this.#low[at] === low && this.#high[at] === high) {
        if (this.#port[at] !== port && !this.#move(at, port)) return true;
        this.#seen[at] = now;
        return true;
      }
      const seen = used ? this.#seen[at]! : -Infinity;
      if (seen < oldest) {
        oldest = seen;
        place = at;
      }
    }
    if (this.#count(port) >= PORT_LIMIT) return true;
    this.#clear(place);
    this.#high[place] = high;
    this.#low[place] = low;
    this.#port[place] = port;
    this.#seen[place] = now;
    this.#perPort.set(port, this.#count(port) + 1);
    return true;
  }

  /** The port of an address; undefined where it is not known. */
  find(high: number, low: number, now: number): number | undefined {
    const fixed = this.#fixed.size === 0 ? undefined : this.#fixed.get(keyOf(high, low));
    if (fixed !== undefined) return fixed;
    for (let i = 0, at = hash(high, low); i < REACH; i++, at = (at + 1) & (PLACES - 1)) {
      if (this.#port[at] === NONE || this.#low[at] !== low || this.#high[at] !== high) continue;
      if (now - this.#seen[at]! <= AGE_S) return this.#port[at];
      this.#clear(at);
      return undefined;
    }
    return undefined;
  }

  /** The port is gone, and with it what was behind it. */
  forget(port: number): void {
    for (let at = 0; at < PLACES; at++) if (this.#port[at] === port) this.#clear(at);
    for (const [key, owner] of this.#fixed) if (owner === port) this.#fixed.delete(key);
    this.#perPort.delete(port);
  }

  #count(port: number): number {
    return this.#perPort.get(port) ?? 0;
  }

  /** Returns false where the new port has no room. */
  #move(at: number, port: number): boolean {
    if (this.#count(port) >= PORT_LIMIT) return false;
    const old = this.#port[at]!;
    this.#perPort.set(old, this.#count(old) - 1);
    this.#perPort.set(port, this.#count(port) + 1);
    this.#port[at] = port;
    return true;
  }

  #clear(at: number): void {
    const port = this.#port[at]!;
    if (port === NONE) return;
    this.#perPort.set(port, this.#count(port) - 1);
    this.#port[at] = NONE;
  }
}

function keyOf(high: number, low: number): number {
  return high * 2 ** 32 + low;
}

function hash(high: number, low: number): number {
  // Fibonacci hashing; addresses of one maker differ in their low bits.
  return Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b) >>> 20;
}
