/** What others make of a seed: mtools of its files, and Debian's cloud-init of what is in them. */
import { execa } from 'execa';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { fetchClosure } from '../../../images/debian/packages.ts';
import { diskTool } from '../storage/disk-tools.ts';

export type Consumed = {
  readonly source: string;
  readonly instanceId: string;
  readonly hostname: string;
  /** of the default user, from meta data */
  readonly keys: readonly string[];
  readonly defaultUser: string;
  readonly users: Readonly<Record<string, { readonly sudo?: unknown; readonly lock_passwd?: boolean }>>;
  readonly config: {
    readonly packages: readonly string[] | null;
    readonly ssh_authorized_keys: readonly string[] | null;
    readonly ssh_pwauth: boolean | null;
    readonly password: string | null;
    readonly chpasswd: { readonly expire?: boolean } | null;
  };
  readonly vendorScripts: Readonly<Record<string, string>>;
  readonly userScripts: Readonly<Record<string, string>>;
  readonly interfaces: readonly Readonly<Record<string, unknown>>[] | null;
};

/** The programs of Debian that the rest of this file runs, where they are not in the cache. */
export async function fetchTools(): Promise<void> {
  for (const name of ['dosfstools', 'mtools', 'cloud-init']) await fetchClosure(name);
}

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'tsvm-seed-'));
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What fsck.fat says of a volume, which it does not change. @throws Error where something is wrong with it */
export function checkFat(disk: Uint8Array): Promise<string> {
  return inFolder((folder) => {
    const image = join(folder, 'seed.img');
    writeFileSync(image, disk);
    return diskTool('fsck.fat', ['-n', '-v', image]);
  });
}

/** The files of a volume as mtools reads them. */
export function filesOf(disk: Uint8Array): Promise<Record<string, Buffer>> {
  return inFolder(async (folder) => {
    const out = join(folder, 'out');
    await copyOut(disk, folder, out);
    return Object.fromEntries(readdirSync(out).map((name) => [name, readFileSync(join(out, name))]));
  });
}

async function copyOut(disk: Uint8Array, scratch: string, to: string): Promise<void> {
  const image = join(scratch, 'seed.img');
  writeFileSync(image, disk);
  mkdirSync(to, { recursive: true });
  await diskTool('mtools', ['-c', 'mcopy', '-n', '-i', image, '::*', to]);
}

/** What cloud-init comes to at the first boot of a guest with this seed. */
export function consume(disk: Uint8Array): Promise<Consumed> {
  return inFolder(async (folder) => {
    const { root } = await fetchClosure('cloud-init');
    await copyOut(disk, folder, join(folder, 'lib/seed/nocloud'));
    const libraries = ['lib', 'usr/lib'].map((dir) => join(root, dir, 'x86_64-linux-gnu'));
    const script = fileURLToPath(new URL('consume.py', import.meta.url));
    const { stdout } = await execa(
      join(root, 'lib64/ld-linux-x86-64.so.2'),
      ['--library-path', libraries.join(':'), join(root, 'usr/bin/python3.11'), script, folder],
      {
        env: {
          PYTHONHOME: join(root, 'usr'),
          PYTHONPATH: join(root, 'usr/lib/python3/dist-packages'),
          PYTHONDONTWRITEBYTECODE: '1',
        },
      },
    );
    return JSON.parse(stdout) as Consumed;
  });
}
