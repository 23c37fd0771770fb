import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { fetchPackage } from '../../../images/debian/packages.ts';
import { debianSources, sourcesList } from '../../../images/debian/sources.ts';

const hasApt = spawnSync('apt-get', ['--version']).status === 0;
const hasKeys = await debianSources().then(
  () => true,
  () => false,
);

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'tsvm-packages-'));
  vi.stubEnv('TSVM_CACHE', cache);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true });
});

describe('fetchPackage', () => {
  it('takes a package that is in the cache without running anything', async () => {
    const root = join(cache, 'tree');
    const deb = join(cache, 'hello.deb');
    mkdirSync(root);
    writeFileSync(deb, '');
    const record = { name: 'hello', version: '2.10-3', deb, sha256: 'e3b0', root };
    const index = join(cache, 'debian/index/bookworm/hello.json');
    mkdirSync(dirname(index), { recursive: true });
    writeFileSync(index, JSON.stringify(record));
    vi.stubEnv('PATH', '/nonexistent');
    expect(await fetchPackage('hello')).toEqual(record);
  });

  it.each(['', '-o', '../etc', 'a b', 'Upper', 'x/bookworm'])('refuses the name %j', async (name) => {
    await expect(fetchPackage(name)).rejects.toThrow(/not the name of a Debian package/);
  });

  it.runIf(hasApt && hasKeys)(
    'says what failed and what to do where a mirror cannot be reached',
    async () => {
      vi.stubEnv('TSVM_DEBIAN_MIRROR', 'http://127.0.0.1:1/debian');
      await expect(fetchPackage('hello')).rejects.toThrow(
        /cannot download hello \(bookworm\): .*127\.0\.0\.1.*TSVM_DEBIAN_MIRROR/,
      );
    },
  );

  it.runIf(hasApt && hasKeys)('refuses a mirror whose lists nobody signed', async () => {
    const packages = '';
    const digest = createHash('sha256').update(packages).digest('hex');
    const release = `Suite: bookworm\nCodename: bookworm\nDate: Sat, 07 Jun 2025 00:00:00 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n ${digest} 0 main/binary-amd64/Packages\n`;
    const asked: string[] = [];
    const mirror = createServer((request, response) => {
      asked.push(request.url ?? '');
      const known = request.url?.endsWith('/Release') === true;
      response.writeHead(known ? 200 : 404).end(known ? release : '');
    });
    await new Promise<void>((listening) => mirror.listen(0, '127.0.0.1', listening));
    try {
      vi.stubEnv('TSVM_DEBIAN_MIRROR', `http://127.0.0.1:${(mirror.address() as AddressInfo).port}/debian`);
      await expect(fetchPackage('hello')).rejects.toThrow(/not signed/);
      expect(asked).toContain('/debian/dists/bookworm/Release');
    } finally {
      mirror.close();
    }
  });
});

describe.runIf(hasKeys)('debianSources', () => {
  it('takes the mirror of TSVM_DEBIAN_MIRROR and the security archive beside it', async () => {
    vi.stubEnv('TSVM_DEBIAN_MIRROR', 'http://mirror.example/debian/');
    expect(await debianSources()).toMatchObject({
      mirror: 'http://mirror.example/debian',
      security: 'http://mirror.example/debian-security',
    });
  });
});

describe('sourcesList', () => {
  const sources = { mirror: 'http://m/debian', security: 'http://m/debian-security', keyring: '/keys.gpg' };

  it('has the release, its updates, its security fixes and backports, each checked by the keys', () => {
    expect(sourcesList(sources, { backports: true }).trim().split('\n')).toEqual([
      'deb [signed-by=/keys.gpg] http://m/debian bookworm main',
      'deb [signed-by=/keys.gpg] http://m/debian bookworm-updates main',
      'deb [signed-by=/keys.gpg] http://m/debian-security bookworm-security main',
      'deb [signed-by=/keys.gpg] http://m/debian bookworm-backports main',
    ]);
  });

  it('leaves out backports where the mirror has none', () => {
    expect(sourcesList(sources, { backports: false })).not.toContain('backports');
  });
});
