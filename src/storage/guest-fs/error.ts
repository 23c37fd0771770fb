export type GuestFsCode =
  /** known by name, and not read here */
  | 'EUNSUPPORTED'
  /** nothing that is known */
  | 'EUNKNOWN'
  /** what is on the disk contradicts itself, or leads out of it */
  | 'ECORRUPT'
  | 'ENOENT'
  | 'ENOTDIR'
  | 'EISDIR'
  /** more symbolic links than a path may have */
  | 'ELOOP'
  /** more than the reader is willing to take: the message has the limit */
  | 'ETOOBIG'
  /** the host cannot read the disk image */
  | 'EIO';

/** The longest text of a guest in a message, in characters; as much as a path may have */
const LONGEST = 4096;

/** What a guest has written, in one line that does nothing to a terminal. */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\ufffd]/gu, '?').slice(0, LONGEST);
}

/** Something cannot be read from a guest's disk. The message is one printable line and names what, within the disk. */
export class GuestFsError extends Error {
  override readonly name = 'GuestFsError';
  readonly code: GuestFsCode;

  constructor(code: GuestFsCode, message: string, options?: ErrorOptions) {
    super(printable(message), options);
    this.code = code;
  }
}

export const corrupt = (message: string): GuestFsError => new GuestFsError('ECORRUPT', message);
export const unsupported = (message: string): GuestFsError => new GuestFsError('EUNSUPPORTED', message);
