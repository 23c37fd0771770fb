import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { PrivateApt, type DebianSuite } from './apt.ts';
import {
  debianCache,
  DebianError,
  makeDirectoryOnce,
  step,
  temporaryName,
  withLock,
  writeAtomically,
} from './cache.ts';
import { RELEASE } from './sources.ts';

export type { DebianSuite } from './apt.ts';
export { DebianError } from './cache.ts';

export type DebianPackage = {
  /** name of the package itself; for a meta package of the kernel, of the kernel it stands for */
  readonly name: string;
  readonly version: string;
  /** the .deb file */
  readonly deb: string;
  /** of the .deb file, in hexadecimal */
  readonly sha256: string;
  /** directory with the package's files */
  readonly root: string;
};

/** A package with all it depends on, unpacked into one tree. */
export type DebianClosure = {
  readonly version: string;
  /** directory with the files of all its packages */
  readonly root: string;
};

type FetchOptions = {
  /** default: the release with its updates and security fixes */
  readonly suite?: DebianSuite;
};

/**
 * A Debian package by name, from the cache or else from a mirror. What is in the cache stays at its version; remove
 * the cache's `debian` directory to get newer ones. Needs no privilege, and may run in several processes at once.
 * @throws DebianError that names the package and what went wrong
 */
export async function fetchPackage(name: string, options: FetchOptions = {}): Promise<DebianPackage> {
  const suite = options.suite ?? RELEASE;
  const index = join(debianCache(), 'index', suite, `${checkedName(name)}.json`);
  return (await cached(index, isPackage)) ?? (await locked(index, isPackage, () => download(name, suite)));
}

/**
 * A Debian package and all it depends on, down to the C library, unpacked into one tree: it runs on any
 * distribution, by its own loader.
 * @throws DebianError that names the package and what went wrong
 */
export async function fetchClosure(name: string, options: FetchOptions = {}): Promise<DebianClosure> {
  const suite = options.suite ?? RELEASE;
  const index = join(debianCache(), 'index', suite, 'closures', `${checkedName(name)}.json`);
  return (
    (await cached(index, isClosure)) ?? (await locked(index, isClosure, () => downloadClosure(name, suite)))
  );
}

function checkedName(name: string): string {
  // Debian policy, section 5.6.1.
  if (!/^[a-z0-9][a-z0-9+.-]+$/.test(name))
    throw new DebianError(`not the name of a Debian package: ${name}`);
  return name;
}

async function locked<T extends { readonly root: string }>(
  index: string,
  isRecord: (value: unknown) => value is T,
  fetch: () => Promise<T>,
): Promise<T> {
  return withLock(join(debianCache(), 'lock'), async () => {
    const other = await cached(index, isRecord);
    if (other !== undefined) return other;
    await removeLeftovers();
    const record = await fetch();
    await writeAtomically(index, `${JSON.stringify(record, undefined, 2)}\n`);
    return record;
  });
}

/** Of processes that were killed: whoever holds the lock is the only one who has temporary files here. */
async function removeLeftovers(): Promise<void> {
  for (const dir of [debianCache(), join(debianCache(), 'trees')]) {
    const entries = await readdir(dir).catch(() => []);
    for (const entry of entries.filter((name) => name.includes('.tmp-'))) {
      await rm(join(dir, entry), { recursive: true, force: true });
    }
  }
}

async function cached<T extends { readonly root: string }>(
  index: string,
  isRecord: (value: unknown) => value is T,
): Promise<T | undefined> {
  try {
    const record: unknown = JSON.parse(await readFile(index, 'utf8'));
    return isRecord(record) && existsSync(record.root) ? record : undefined;
  } catch {
    return undefined;
  }
}

function isClosure(value: unknown): value is DebianClosure {
  return typeof value === 'object' && value !== null && 'root' in value && typeof value.root === 'string';
}

function isPackage(value: unknown): value is DebianPackage {
  return isClosure(value) && 'deb' in value && typeof value.deb === 'string' && existsSync(value.deb);
}

async function download(name: string, suite: DebianSuite): Promise<DebianPackage> {
  const file = await step(`fetching the Debian package ${name} (${suite})`, () =>
    inScratch(async (dir) => {
      await new PrivateApt().download(name, suite, dir);
      const deb = (await readdir(dir)).find((entry) => entry.endsWith('.deb'));
      if (deb === undefined) throw new DebianError(`apt-get downloaded nothing for ${name}`);
      const kept = join(debianCache(), 'debs', deb);
      await mkdir(join(debianCache(), 'debs'), { recursive: true });
      await rename(join(dir, deb), kept);
      return kept;
    }),
  );
  const control = await controlOf(file);
  const kernel = /\b(linux-image-\d[a-z0-9+.-]*)/.exec(control.depends)?.[1];
  if (control.name === name && /^linux-image-(cloud-)?amd64$/.test(name) && kernel !== undefined) {
    return download(kernel, suite);
  }
  const root = join(debianCache(), 'trees', basename(file, '.deb').replaceAll('%3a', '-'));
  await step(`unpacking ${control.name} ${control.version}`, () =>
    makeDirectoryOnce(root, (dir) => unpack(file, dir)),
  );
  return { name: control.name, version: control.version, deb: file, sha256: await sha256(file), root };
}

async function downloadClosure(name: string, suite: DebianSuite): Promise<DebianClosure> {
  return inScratch(async (dir) => {
    await step(`fetching the Debian package ${name} (${suite}) and its dependencies`, () =>
      new PrivateApt().downloadClosure(name, suite, dir),
    );
    const debs = (await readdir(dir)).filter((entry) => entry.endsWith('.deb')).sort();
    const main = debs.find((deb) => deb.startsWith(`${name}_`));
    if (main === undefined) throw new DebianError(`apt-get downloaded nothing for ${name}`);
    const root = join(debianCache(), 'trees', `${basename(main, '.deb').replaceAll('%3a', '-')}-closure`);
    await step(`unpacking ${name} and its dependencies`, () =>
      makeDirectoryOnce(root, async (tree) => {
        for (const deb of debs) await unpack(join(dir, deb), tree);
      }),
    );
    return { version: (await controlOf(join(dir, main))).version, root };
  });
}

async function inScratch<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = temporaryName(join(debianCache(), 'download'));
  await mkdir(dir, { recursive: true });
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function controlOf(deb: string): Promise<{ name: string; version: string; depends: string }> {
  const field = async (name: string) => (await execa('dpkg-deb', ['--field', deb, name])).stdout;
  return { name: await field('Package'), version: await field('Version'), depends: await field('Depends') };
}

async function unpack(deb: string, into: string): Promise<void> {
  const result = await execa('dpkg-deb', ['--extract', deb, into], { reject: false });
  if (result.failed) throw new DebianError(`cannot unpack ${deb}: ${result.stderr || result.shortMessage}`);
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
