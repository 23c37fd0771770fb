import { readFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';

/** The machine as the checks see it. */
export type Host = {
  /** folder that absolute paths are looked up in; `/` but for tests */
  readonly root: string;
  /** folders of programs, colon-separated */
  readonly path: string;
  readonly user: User;
};

export type User = {
  readonly name: string;
  readonly uid: number;
  /** the primary group and all others of this process */
  readonly groups: readonly number[];
};

/** The machine and the user that tsvm runs on and as. */
export function thisHost(): Host {
  const uid = process.getuid?.() ?? -1;
  const groups = [process.getegid?.() ?? -1, ...(process.getgroups?.() ?? [])];
  return { root: '/', path: process.env['PATH'] ?? '', user: { name: userName(uid), uid, groups } };
}

function userName(uid: number): string {
  try {
    return userInfo().username;
  } catch {
    // A container may run with a user id that no name belongs to.
    return String(uid);
  }
}

/** The path on this machine of `path` on the host. */
export function hostPath(host: Host, path: string): string {
  return join(host.root, path);
}

/** A file's text, undefined where it is not there or not to be read. */
export async function readText(host: Host, path: string): Promise<string | undefined> {
  try {
    return (await readFile(hostPath(host, path), 'utf8')).trim();
  } catch {
    return undefined;
  }
}

/** The number that a file consists of. */
export async function readNumber(host: Host, path: string): Promise<number | undefined> {
  const text = await readText(host, path);
  return text !== undefined && /^-?\d+$/.test(text) ? Number(text) : undefined;
}

/** A command for somebody to type, with `sudo` where the user is not root. */
export function asRoot(host: Host, command: string): string {
  return host.user.uid === 0 ? command : `sudo ${command}`;
}

/** The CPU's flags, those of one CPU for all. */
export async function cpuFlags(host: Host): Promise<ReadonlySet<string>> {
  const flags = /^flags\s*:\s*(.*)$/m.exec((await readText(host, '/proc/cpuinfo')) ?? '');
  return new Set(flags?.[1]?.split(/\s+/));
}

/** What kind of container this process runs in; undefined: none, as far as can be told. */
export async function containerKind(host: Host): Promise<string | undefined> {
  const [systemd, podman, docker, cgroup] = await Promise.all([
    readText(host, '/run/systemd/container'),
    readText(host, '/run/.containerenv'),
    readText(host, '/.dockerenv'),
    readText(host, '/proc/1/cgroup'),
  ]);
  if (systemd !== undefined && systemd !== '') return systemd;
  if (podman !== undefined) return 'podman';
  if (docker !== undefined) return 'docker';
  return /\b(docker|lxc|kubepods|containerd)\b/.exec(cgroup ?? '')?.[1];
}
