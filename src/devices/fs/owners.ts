/** Whose files are: users and groups of the host as the guest sees them, and back. */

/** What the guest sees of owners that it has no name for: nobody, nogroup. */
const NOBODY = 65534;
/** leaves an owner as it is (chown(2)) */
export const NO_OWNER = 0xffff_ffff;

export type OwnerOptions = {
  /** who the guest sees as the owner of this user's files; default 0 */
  readonly uid?: number;
  readonly gid?: number;
};

export type Identity = { readonly uid: number; readonly gid: number };

/**
 * An unprivileged user has no other one's files to give: all that the guest makes is this user's, which the guest sees
 * as one user of its own, by default root; everybody else's is nobody's. Root gives files to whom the guest's callers
 * are, unless it is told a user as well.
 */
export class Owners {
  /** host and guest have the same users */
  readonly same: boolean;
  readonly #host: Identity;
  readonly #guest: Identity;

  constructor(options: OwnerOptions, host: Identity) {
    this.same = host.uid === 0 && options.uid === undefined && options.gid === undefined;
    this.#host = host;
    this.#guest = { uid: options.uid ?? 0, gid: options.gid ?? 0 };
  }

  guestUser(uid: number): number {
    if (this.same) return uid;
    return uid === this.#host.uid ? this.#guest.uid : NOBODY;
  }

  guestGroup(gid: number): number {
    if (this.same) return gid;
    return gid === this.#host.gid ? this.#guest.gid : NOBODY;
  }

  /** Undefined where the host cannot give a file to such a user. */
  hostUser(uid: number): number | undefined {
    if (this.same) return uid;
    return uid === this.#guest.uid ? this.#host.uid : undefined;
  }

  hostGroup(gid: number): number | undefined {
    if (this.same) return gid;
    return gid === this.#guest.gid ? this.#host.gid : undefined;
  }

  /** Whom something new is to be given to, where that is not who makes it anyway. */
  newUser(uid: number): number {
    return this.same && uid !== this.#host.uid ? uid : NO_OWNER;
  }

  newGroup(gid: number): number {
    return this.same && gid !== this.#host.gid ? gid : NO_OWNER;
  }
}
