import { ImageError } from './errors.ts';

export type Digest = {
  readonly algorithm: 'sha256' | 'sha512';
  /** in lower case */
  readonly hex: string;
};

const HEX_LENGTH = { sha256: 64, sha512: 128 } as const;

/** A checksum by its digits. Undefined of what is none, or of one that no longer proves anything (MD5, SHA-1). */
export function digestOf(hex: string): Digest | undefined {
  if (!/^[0-9a-f]+$/i.test(hex)) return undefined;
  const lower = hex.toLowerCase();
  if (lower.length === HEX_LENGTH.sha256) return { algorithm: 'sha256', hex: lower };
  if (lower.length === HEX_LENGTH.sha512) return { algorithm: 'sha512', hex: lower };
  return undefined;
}

/** `sha256sum` and the like: `HEX  NAME`, with `*` before the name of a binary file */
const GNU_LINE = /^([0-9a-fA-F]{64,128}) [ *](\S.*)$/;
/** `sha256sum --tag`, as the BSDs print it: `SHA256 (NAME) = HEX` */
const BSD_LINE = /^SHA(?:256|512) ?\((.+)\) ?= ?([0-9a-fA-F]{64,128})$/;

/**
 * The checksum of a file in a distributor's list of them, in either of the forms that tools write, with a signature
 * around them or not; a list that is a single checksum is of the one file that it is for.
 * @param name the file, as its distributor calls it
 * @param list where the list is from, for errors
 * @throws ImageError (ECHECKSUM) where it is not in the list, or there with two
 */
export function findChecksum(text: string, name: string, list: string): Digest {
  const found = new Map<string, Digest>();
  for (const line of text.split(/\r?\n/)) {
    const gnu = GNU_LINE.exec(line);
    const bsd = gnu === null ? BSD_LINE.exec(line) : null;
    const file = gnu?.[2] ?? bsd?.[1];
    const digest = digestOf(gnu?.[1] ?? bsd?.[2] ?? '');
    if (digest !== undefined && file?.replace(/^\.\//, '') === name) found.set(digest.hex, digest);
  }
  const alone = found.size === 0 ? digestOf(text.trim()) : undefined;
  const [digest = alone, ...others] = ofStrongest([...found.values()]);
  if (digest === undefined) {
    throw new ImageError('ECHECKSUM', `${list} has no checksum of ${name}`, {
      hint: 'the distributor may have renamed the file: a newer tsvm may know, or config.ini can tell (`tsvm image --help`)',
    });
  }
  if (others.length > 0) throw new ImageError('ECHECKSUM', `${list} has two checksums of ${name}`);
  return digest;
}

function ofStrongest(digests: readonly Digest[]): readonly Digest[] {
  const strongest = digests.filter(({ algorithm }) => algorithm === 'sha512');
  return strongest.length > 0 ? strongest : digests;
}
