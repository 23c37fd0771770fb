import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { copyFile, link, mkdir, open, stat, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { PrivateApt } from './apt.ts';
import { debianCache, DebianError, withLock } from './cache.ts';

/** One package at one version; the checksum is that of the .deb file, SHA-256 in hexadecimal. */
export type PackageVersion = {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  readonly sha256: string;
};

export type PackageFile = PackageVersion & {
  readonly deb: string;
  readonly size: number;
  /** when it was built, in seconds since 1970 */
  readonly date: number;
  /** its control file */
  readonly control: string;
};

/** Lines of `NAME VERSION ARCHITECTURE SHA256`, sorted. */
export function formatPackageList(packages: Iterable<PackageVersion>): string {
  const lines = [...packages].map(({ name, version, architecture, sha256 }) =>
    [name, version, architecture, sha256].join(' '),
  );
  return lines
    .sort()
    .map((line) => `${line}\n`)
    .join('');
}

/** @throws DebianError naming the first line that is no such line */
export function parsePackageList(text: string, file: string): PackageVersion[] {
  return text
    .split('\n')
    .map((line, i) => [line.trim(), i + 1] as const)
    .filter(([line]) => line !== '' && !line.startsWith('#'))
    .map(([line, number]) => {
      const match = /^([a-z0-9][a-z0-9+.-]+) ([0-9][A-Za-z0-9.+~:-]*) (amd64|all) ([0-9a-f]{64})$/.exec(line);
      if (match === null) {
        throw new DebianError(`${file}:${number}: not a line of NAME VERSION ARCHITECTURE SHA256: ${line}`);
      }
      return { name: match[1]!, version: match[2]!, architecture: match[3]!, sha256: match[4]! };
    });
}

/** The newest packages that make a system: the named ones, the essential ones, apt, and what all of them depend on. */
export async function newestPackages(
  names: readonly string[],
  options: { readonly freshLists: boolean },
): Promise<PackageFile[]> {
  return inArchive(async (apt, dir) => {
    if (options.freshLists) await apt.forgetLists();
    const files = await apt.downloadSystem(names, dir);
    return readPackages(files.map((file) => join(dir, file)));
  });
}

/**
 * The packages of a list, each at its version.
 * @throws DebianError where the mirror does not have one any more, or has another file under its name
 */
export async function listedPackages(list: readonly PackageVersion[]): Promise<PackageFile[]> {
  return inArchive(async (apt, dir) => {
    const files = list.map((entry) => join(dir, fileName(entry)));
    const missing = list.filter((_, i) => !existsSync(files[i]!));
    if (missing.length > 0) {
      await apt.downloadVersions(missing, dir);
    }
    const packages = await readPackages(files);
    packages.forEach(({ sha256, deb }, i) => {
      const expected = list[i]!.sha256;
      if (sha256 !== expected) {
        throw new DebianError(`${deb} is not the file of the list: SHA-256 ${sha256}, expected ${expected}`);
      }
    });
    return packages;
  });
}

/** Makes a directory that apt takes as a repository (`deb [trusted=yes] copy:DIR ./`): what is in it was checked. */
export async function writeRepository(packages: readonly PackageFile[], dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  for (const { deb } of packages) {
    const target = join(dir, basename(deb));
    await link(deb, target).catch(() => copyFile(deb, target));
  }
  const index = packages.map(({ control, deb, size, sha256 }) =>
    [control.trimEnd(), `Filename: ./${basename(deb)}`, `Size: ${size}`, `SHA256: ${sha256}`, ''].join('\n'),
  );
  await writeFile(join(dir, 'Packages'), index.join('\n'));
}

async function inArchive<T>(work: (apt: PrivateApt, dir: string) => Promise<T>): Promise<T> {
  const dir = join(debianCache(), 'debs');
  await mkdir(dir, { recursive: true });
  // The lock of everything that uses the private apt.
  return withLock(join(debianCache(), 'lock'), () => work(new PrivateApt(), dir));
}

/** apt's name of a package's file in its archive: a colon would be read as part of a URI. */
function fileName({ name, version, architecture }: PackageVersion): string {
  return `${name}_${version.replaceAll(':', '%3a')}_${architecture}.deb`;
}

async function readPackages(debs: readonly string[]): Promise<PackageFile[]> {
  const packages: PackageFile[] = [];
  const width = availableParallelism();
  for (let i = 0; i < debs.length; i += width) {
    packages.push(...(await Promise.all(debs.slice(i, i + width).map(readPackage))));
  }
  return packages;
}

async function readPackage(deb: string): Promise<PackageFile> {
  const { stdout: control, failed, stderr } = await execa('dpkg-deb', ['--field', deb], { reject: false });
  if (failed) throw new DebianError(`cannot read ${deb}: ${stderr}; remove it to have it fetched again`);
  const field = (name: string): string => {
    const value = new RegExp(`^${name}: *(.*)$`, 'm').exec(control)?.[1];
    if (value === undefined) throw new DebianError(`${deb}: its control file has no ${name}`);
    return value;
  };
  const hash = createHash('sha256');
  await pipeline(createReadStream(deb), hash);
  return {
    name: field('Package'),
    version: field('Version'),
    architecture: field('Architecture'),
    sha256: hash.digest('hex'),
    deb,
    size: (await stat(deb)).size,
    date: await dateOf(deb),
    control,
  };
}

/** A .deb is an ar archive (deb(5)); its first member's header has the time of the build at offset 16. */
async function dateOf(deb: string): Promise<number> {
  const file = await open(deb);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(12), 0, 12, '!<arch>\n'.length + 16);
    const date = Number(buffer.toString('latin1', 0, bytesRead).trim());
    if (!Number.isSafeInteger(date) || date <= 0) throw new DebianError(`${deb} has no date`);
    return date;
  } finally {
    await file.close();
  }
}
