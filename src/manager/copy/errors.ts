/** Something cannot be copied; the message names it as the command line does: `web:/etc/motd` is in the guest. */
export class CopyError extends Error {
  override readonly name = 'CopyError';
  readonly code = 'ECOPY';
  readonly side: 'host' | 'guest';
  readonly path: string;
  readonly hint: string | undefined;

  constructor(
    where: { readonly side: 'host' | 'guest'; readonly path: string },
    why: string,
    options?: ErrorOptions & { readonly hint?: string },
  ) {
    super(`cannot copy: ${where.path}: ${why}`, options);
    this.side = where.side;
    this.path = where.path;
    this.hint = options?.hint;
  }
}

/** What a system call says is wrong, in few words. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error ? String(error.code) : '';
  return REASONS[code] ?? error.message;
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or folder',
  ENOTDIR: 'a part of the path is no folder',
  EACCES: 'permission denied',
  EPERM: 'not permitted',
  ENOSPC: 'no space is left',
  EDQUOT: 'the quota is used up',
  EROFS: 'the file system is read-only',
  ENAMETOOLONG: 'the name is too long',
  ELOOP: 'too many symbolic links',
  EFBIG: 'the file is too large',
  EIO: 'input/output error',
};
