import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  formatPackageList,
  listedPackages,
  parsePackageList,
  writeRepository,
} from '../../../images/debian/archive.ts';

const hasDpkg = spawnSync('dpkg-deb', ['--version']).status === 0;
const hasApt = spawnSync('apt-get', ['--version']).status === 0;
const SHA = 'ab'.repeat(32);
const DATE = 1_700_000_000;

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'tsvm-archive-'));
  vi.stubEnv('TSVM_CACHE', cache);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true });
});

/** A package in the cache under the name that apt gives to its file. @returns its line of a list */
function packageInCache(): string {
  const tree = join(cache, 'tree');
  mkdirSync(join(tree, 'DEBIAN'), { recursive: true });
  mkdirSync(join(cache, 'debian/debs'), { recursive: true });
  const fields = {
    Package: 'hello',
    Version: '1:2.10-3',
    Architecture: 'all',
    Maintainer: 'Nobody <no@where>',
  };
  const control = Object.entries({ ...fields, Description: 'greets' }).map(
    ([key, value]) => `${key}: ${value}\n`,
  );
  writeFileSync(join(tree, 'DEBIAN/control'), control.join(''));
  const deb = join(cache, 'debian/debs/hello_1%3a2.10-3_all.deb');
  execFileSync('dpkg-deb', ['--root-owner-group', '--build', tree, deb], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(DATE) },
  });
  return `hello 1:2.10-3 all ${createHash('sha256').update(readFileSync(deb)).digest('hex')}\n`;
}

describe('package list', () => {
  it('reads what it wrote, in order of names', () => {
    const packages = [
      { name: 'udev', version: '252.39-1~deb12u2', architecture: 'amd64', sha256: SHA },
      { name: 'adduser', version: '3.134', architecture: 'all', sha256: SHA },
    ];
    const text = formatPackageList(packages);
    expect(text).toBe(`adduser 3.134 all ${SHA}\nudev 252.39-1~deb12u2 amd64 ${SHA}\n`);
    expect(parsePackageList(text, 'list')).toEqual(packages.toReversed());
  });

  it('skips comments and empty lines', () => {
    expect(parsePackageList(`# of a build\n\nadduser 3.134 all ${SHA}\n`, 'list')).toHaveLength(1);
  });

  it.each([
    'adduser 3.134 all',
    `adduser 3.134 all ${SHA.slice(1)}`,
    `../adduser 3.134 all ${SHA}`,
    `adduser 3/134 all ${SHA}`,
    `adduser 3.134 arm64 ${SHA}`,
  ])('refuses %j and names its line', (line) => {
    expect(() => parsePackageList(`\n${line}\n`, 'a/list')).toThrow(/^a\/list:2: /);
  });
});

describe.runIf(hasDpkg)('listedPackages', () => {
  it('takes a package that is in the cache without asking a mirror', async () => {
    const line = packageInCache();
    vi.stubEnv('TSVM_DEBIAN_MIRROR', 'http://127.0.0.1:1/debian');
    const [file] = await listedPackages(parsePackageList(line, 'list'));
    expect(formatPackageList([file!])).toBe(line);
    expect(file!.date).toBe(DATE);
  });

  it('refuses a file that is not the one of the list', async () => {
    packageInCache();
    const list = parsePackageList(`hello 1:2.10-3 all ${SHA}\n`, 'list');
    await expect(listedPackages(list)).rejects.toThrow(/hello_.*is not the file of the list: SHA-256/);
  });

  it('names the file where it is damaged', async () => {
    const line = packageInCache();
    writeFileSync(join(cache, 'debian/debs/hello_1%3a2.10-3_all.deb'), 'cut short');
    await expect(listedPackages(parsePackageList(line, 'list'))).rejects.toThrow(/cannot read .*hello_/);
  });
});

describe.runIf(hasDpkg && hasApt)('writeRepository', () => {
  it('makes a repository that apt installs from', async () => {
    const packages = await listedPackages(parsePackageList(packageInCache(), 'list'));
    const repository = join(cache, 'repository');
    await writeRepository(packages, repository);

    const root = join(cache, 'root');
    for (const dir of [
      'etc/apt',
      'var/lib/apt/lists/partial',
      'var/lib/dpkg',
      'var/cache/apt/archives/partial',
    ])
      mkdirSync(join(root, dir), { recursive: true });
    writeFileSync(join(root, 'etc/apt/sources.list'), `deb [trusted=yes] copy:${repository} ./\n`);
    writeFileSync(join(root, 'var/lib/dpkg/status'), '');
    const options = [
      `Dir=${root}`,
      `Dir::State::status=${root}/var/lib/dpkg/status`,
      'APT::Sandbox::User=root',
    ];
    const apt = (...args: string[]) =>
      execFileSync('apt-get', ['-qq', ...options.flatMap((option) => ['-o', option]), ...args], {
        cwd: cache,
        encoding: 'utf8',
      });
    apt('update');
    apt('download', 'hello');
    expect(readFileSync(join(cache, 'hello_1%3a2.10-3_all.deb'))).toEqual(readFileSync(packages[0]!.deb));
  });
});
