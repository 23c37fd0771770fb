import { IoVector } from './io-vector.ts';

/** A request that waits for room in the ring, with its own copy of the vector. Used again after it has left. */
export type WaitingRequest<Owner> = {
  operation: number;
  fd: number;
  offset: number;
  length: number;
  readonly vector: IoVector;
  owner: Owner | undefined;
  cookie: number;
};

function newRequest<Owner>(): WaitingRequest<Owner> {
  const vector = new IoVector();
  return { operation: 0, fd: -1, offset: 0, length: 0, vector, owner: undefined, cookie: 0 };
}

/** First in, first out; grows where it must and allocates nothing after that. */
export class Backlog<Owner> {
  #requests: WaitingRequest<Owner>[] = [];
  #head = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** The request at the end, for the caller to fill in; its vector is empty. */
  push(): WaitingRequest<Owner> {
    if (this.#count === this.#requests.length) this.#grow();
    const request = this.#requests[(this.#head + this.#count++) & (this.#requests.length - 1)]!;
    request.vector.clear();
    return request;
  }

  first(): WaitingRequest<Owner> | undefined {
    return this.#count === 0 ? undefined : this.#requests[this.#head];
  }

  /** Removes the first; what {@link first} gave stays as it is until the next push. */
  shift(): void {
    this.#requests[this.#head]!.owner = undefined;
    this.#head = (this.#head + 1) & (this.#requests.length - 1);
    this.#count--;
  }

  /** Doubles, in powers of two, and brings the head to the front. */
  #grow(): void {
    const old = this.#requests;
    const size = Math.max(16, 2 * old.length);
    this.#requests = Array.from({ length: size }, (_, i) =>
      i < old.length ? old[(this.#head + i) & (old.length - 1)]! : newRequest<Owner>(),
    );
    this.#head = 0;
  }
}
