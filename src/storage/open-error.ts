import { systemCode } from '../kvm/system-code.ts';
import { StorageError } from './disk.ts';

const REASONS: Readonly<Record<string, readonly [message: string, hint?: string]>> = {
  ENOENT: ['there is no such file', 'check the path, or make an image with `tsvm disk create`'],
  ENOTDIR: ['there is no such file', 'a folder of its path is none'],
  EACCES: ['permission denied', "check the file's owner and permissions"],
  EISDIR: ['this is a folder', 'give the image that is in it'],
  EROFS: ['the file system is read-only', 'open it read-only, or copy it to another place'],
  ELOOP: ['its links lead in a circle'],
  EMFILE: ['too many files are open', 'raise the limit (`ulimit -n`)'],
};

/** The host's error in words. */
export function openError(path: string, error: unknown): StorageError {
  const code = systemCode(error) ?? 'EIO';
  const [message, hint] = REASONS[code] ?? [`cannot be opened: ${code}`];
  return new StorageError(path, code, message, hint);
}
