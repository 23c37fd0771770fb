import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { debianCache, writeAtomically } from './cache.ts';
import { cpio, type CpioEntry } from './cpio.ts';
import { moduleOrder, type Kernel } from './kernel.ts';
import { fetchPackage } from './packages.ts';

export type Initramfs = {
  /** text of /init, a script for busybox's sh; without a `#!` line one is put before it */
  readonly init: string;
  /** more of its files, besides what {@link buildInitramfs} names */
  readonly files?: readonly CpioEntry[];
  /** modules that `load-modules` is to insert, with what they need; those built into the kernel are left out */
  readonly modules?: { readonly kernel: Pick<Kernel, 'modules'>; readonly names: readonly string[] };
};

const MODULES = 'lib/modules';
/** Inserts every module of the archive in order; says which one failed and returns its status. */
const LOAD_MODULES = `#!/bin/sh
while read -r module; do
  insmod /${MODULES}/$module.ko || { status=$?; echo "load-modules: $module: failed" >&2; exit $status; }
done < /${MODULES}/order
`;

/**
 * A small initramfs around Debian's static busybox: all of its applets in /bin, `load-modules`, empty /proc, /sys,
 * /dev (with console and null), /tmp, /run, /root, /mnt and /etc. Not compressed: the kernel unpacks it in no time.
 * Equal input gives equal bytes.
 * @throws DebianError where busybox or a module cannot be had
 */
export async function buildInitramfs(spec: Initramfs): Promise<Buffer> {
  const busybox = join((await fetchPackage('busybox-static')).root, 'bin/busybox');
  const applets = (await execa(busybox, ['--list'])).stdout.split('\n').filter((name) => name !== 'busybox');
  const entries: CpioEntry[] = [
    ...['dev', 'proc', 'sys', 'tmp', 'run', 'root', 'mnt', 'etc'].map((path) => ({
      type: 'dir' as const,
      path,
    })),
    // Without a console node init starts without standard output: devtmpfs is not mounted on an initramfs.
    { type: 'char', path: 'dev/console', major: 5, minor: 1 },
    { type: 'char', path: 'dev/null', major: 1, minor: 3, mode: 0o666 },
    { type: 'file', path: 'bin/busybox', content: await readFile(busybox), mode: 0o755 },
    ...applets.map((name) => ({ type: 'symlink' as const, path: `bin/${name}`, target: 'busybox' })),
    ...(await moduleEntries(spec)),
    { type: 'file', path: 'init', content: withInterpreter(spec.init), mode: 0o755 },
    ...(spec.files ?? []),
  ];
  return cpio(entries);
}

/** The initramfs as a file in the cache, named by its content. @returns its path */
export async function initramfsFile(spec: Initramfs): Promise<string> {
  const archive = await buildInitramfs(spec);
  const name = createHash('sha256').update(archive).digest('hex').slice(0, 24);
  const path = join(debianCache(), 'initramfs', `${name}.cpio`);
  if (!existsSync(path)) await writeAtomically(path, archive);
  return path;
}

async function moduleEntries(spec: Initramfs): Promise<CpioEntry[]> {
  const modules =
    spec.modules === undefined ? [] : await moduleOrder(spec.modules.kernel, spec.modules.names);
  return [
    { type: 'file', path: 'bin/load-modules', content: LOAD_MODULES, mode: 0o755 },
    { type: 'file', path: `${MODULES}/order`, content: modules.map(({ name }) => `${name}\n`).join('') },
    ...(await Promise.all(
      modules.map(async ({ name, file }) => ({
        type: 'file' as const,
        path: `${MODULES}/${name}.ko`,
        content: await readFile(file),
      })),
    )),
  ];
}

function withInterpreter(script: string): string {
  return script.startsWith('#!') ? script : `#!/bin/sh\n${script}`;
}
