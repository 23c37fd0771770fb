import { chmodSync, mkdirSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { systemCode } from '../kvm/system-code.ts';

/** Where tsvm keeps what outlives a command. All folders are for their owner only. */
export type ManagerPaths = {
  /** the data directory: `$TSVM_HOME`, else `$XDG_DATA_HOME/tsvm`, else `~/.local/share/tsvm` */
  readonly root: string;
  /** a folder for each VM */
  readonly vms: string;
  /** a folder for each image */
  readonly images: string;
  /** a folder for each guest that `run` goes on from */
  readonly warm: string;
  readonly locks: string;
  /** the user's defaults, a file: in `$TSVM_HOME` where that is set, else `$XDG_CONFIG_HOME/tsvm` */
  readonly config: string;
  /** for sockets, gone after a reboot: `$XDG_RUNTIME_DIR/tsvm`, else `run` in the data directory */
  readonly run: string;
};

/** A path that cannot be used as it is: which one, why, and what to do about it. */
export class PathError extends Error {
  override readonly name = 'PathError';
  readonly code: string;
  readonly path: string;
  readonly hint?: string;

  constructor(path: string, code: string, message: string, hint?: string) {
    super(`${path}: ${message}`);
    this.path = path;
    this.code = code;
    if (hint !== undefined) this.hint = hint;
  }
}

/** @throws PathError where TSVM_HOME is not absolute: it would mean another place with every working directory */
export function managerPaths(env: NodeJS.ProcessEnv = process.env): ManagerPaths {
  const own = env['TSVM_HOME'];
  const hasOwn = own !== undefined && own !== '';
  if (hasOwn && !isAbsolute(own))
    throw new PathError(own, 'EINVAL', 'TSVM_HOME is not an absolute path', 'begin it with /');
  // The XDG Base Directory Specification has relative paths ignored.
  const xdg = (name: string): string | undefined => {
    const value = env[name];
    return value !== undefined && isAbsolute(value) ? value : undefined;
  };
  const root = hasOwn ? own : join(xdg('XDG_DATA_HOME') ?? join(homedir(), '.local/share'), 'tsvm');
  const configFolder = hasOwn ? root : join(xdg('XDG_CONFIG_HOME') ?? join(homedir(), '.config'), 'tsvm');
  const runtime = xdg('XDG_RUNTIME_DIR');
  return {
    root,
    vms: join(root, 'vms'),
    images: join(root, 'images'),
    warm: join(root, 'warm'),
    locks: join(root, 'locks'),
    config: join(configFolder, 'config.ini'),
    // Another data directory has VMs of the same names.
    run: hasOwn || runtime === undefined ? join(root, 'run') : join(runtime, 'tsvm'),
  };
}

/**
 * Makes a folder for its owner only, and those above it; one that is there already loses the rights of others.
 * @throws PathError where it is no folder, or another user's
 */
export function privateFolder(path: string): string {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const { uid, mode } = statSync(path);
    const me = process.getuid?.();
    if (me !== undefined && uid !== me) {
      throw new PathError(
        path,
        'EPERM',
        `this folder belongs to another user (${uid})`,
        'set TSVM_HOME to a folder of your own',
      );
    }
    if ((mode & 0o077) !== 0) chmodSync(path, 0o700);
    return path;
  } catch (error) {
    if (error instanceof PathError) throw error;
    const code = systemCode(error) ?? 'EIO';
    const message = REASONS[code] ?? `the folder cannot be made: ${code}`;
    throw new PathError(path, code, message, 'set TSVM_HOME to a folder that you can write to');
  }
}

const REASONS: Readonly<Record<string, string>> = {
  EEXIST: 'this is no folder',
  ENOTDIR: 'what it is to be in is no folder',
  EACCES: 'permission denied',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space is left on the file system',
};

/** unix(7): `sun_path` has 108 bytes, the last of them 0. Longer paths are cut off by some, refused by others. */
const SOCKET_PATH_LIMIT = 107;

/** The path of a socket. @throws PathError where it is too long for one */
export function socketPath(folder: string, name: string): string {
  const path = join(folder, name);
  const length = Buffer.byteLength(path);
  if (length > SOCKET_PATH_LIMIT) {
    throw new PathError(
      path,
      'ENAMETOOLONG',
      `sockets have paths of up to ${SOCKET_PATH_LIMIT} bytes, and this has ${length}`,
      'take a shorter name, or set XDG_RUNTIME_DIR or TSVM_HOME to a shorter path',
    );
  }
  return path;
}
