import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { loadCatalogue } from '../../../../src/manager/images/catalogue.ts';
import {
  ensureImage,
  pullImage,
  type PullOptions,
  type PullProgress,
} from '../../../../src/manager/images/pull.ts';
import { downloadsFolder, listImages } from '../../../../src/manager/images/store.ts';
import { managerPaths, privateFolder, type ManagerPaths } from '../../../../src/manager/paths.ts';
import { canMount, mountTmpfs } from '../../../support/scratch-mounts.ts';
import {
  ALMA_DISK,
  DEBIAN_DISK,
  serveAlma,
  serveAlpine,
  serveDebian,
  serveFedora,
  serveUbuntu,
  smallQcow2,
  UBUNTU_FILES,
  writeMirrorConfig,
} from '../../../support/images/distributors.ts';
import { ImageServer, sha } from '../../../support/images/image-server.ts';
import { temporaryFolder } from '../../../support/storage/qemu-img.ts';

const FAST = { backOff: 1, stallTimeout: 5000 } as const;

let disk: Buffer;
let server: ImageServer;
let home: ReturnType<typeof temporaryFolder>;
let paths: ManagerPaths;

beforeAll(async () => {
  disk = await smallQcow2(3_000_000);
});
beforeEach(async () => {
  server = await ImageServer.start();
  home = temporaryFolder();
  paths = managerPaths({ TSVM_HOME: home.path });
  writeMirrorConfig(paths.config, server);
});
afterEach(async () => {
  await server.close();
  home.remove();
});

const pull = (name: string, options: PullOptions = {}) => pullImage(paths, name, { ...FAST, ...options });

/** What is left of downloads, in the store. */
const leftovers = (): string[] =>
  readdirSync(paths.images, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.includes('.part'))
    .map((entry) => entry.name);

describe('layouts of distributors', () => {
  it('takes disk, kernel and initrd of Ubuntu, each checked by its own list', async () => {
    const { kernel, initrd } = serveUbuntu(server, disk);
    const { image, isNew } = await pull('ubuntu');
    expect(isNew).toBe(true);
    expect(image).toMatchObject({
      name: 'ubuntu:24.04',
      format: 'qcow2',
      virtualSize: 64 * 2 ** 20,
      user: 'ubuntu',
      cmdline: 'root=LABEL=cloudimg-rootfs ro',
      checksum: `sha256:${sha('sha256', disk)}`,
    });
    expect(readFileSync(image.disk).equals(disk)).toBe(true);
    expect(readFileSync(image.kernel ?? '').equals(kernel)).toBe(true);
    expect(readFileSync(image.initrd ?? '').equals(initrd)).toBe(true);
  });

  it.each([
    ['debian', serveDebian, 'debian:13'],
    ['centos', serveAlma, 'almalinux:9'],
    ['fedora', serveFedora, 'fedora:44'],
    ['alpine-3.23', serveAlpine, 'alpine:3.23'],
  ] as const)('takes %s, whose kernel is in the disk', async (name, serve, own) => {
    serve(server, disk);
    const { image } = await pull(name);
    expect(image.name).toBe(own);
    expect(image.kernel).toBeUndefined();
    expect(readFileSync(image.disk).equals(disk)).toBe(true);
  });

  it('leaves read-only files in a private folder, and nothing else', async () => {
    serveDebian(server, disk);
    const { image } = await pull('debian');
    expect(statSync(image.disk).mode & 0o777).toBe(0o444);
    expect(statSync(image.folder).mode & 0o777).toBe(0o700);
    expect(readdirSync(image.folder).sort()).toEqual(['disk.qcow2', 'image.json']);
    expect(leftovers()).toEqual([]);
  });
});

describe('images that are here', () => {
  it('are not downloaded again while the distributor has the same', async () => {
    serveDebian(server, disk);
    const first = await pull('debian');
    const second = await pull('debian:13');
    expect(second).toEqual({ image: first.image, isNew: false });
    expect(server.of(DEBIAN_DISK)).toHaveLength(1);
  });

  it('stay beside a newer one, which the name means from then on', async () => {
    serveDebian(server, disk);
    const old = await pull('debian');
    serveDebian(server, await smallQcow2(1000, 9));
    const next = await pull('debian');
    expect(next.isNew).toBe(true);
    expect(listImages(paths).images.map(({ id }) => id)).toEqual([next.image.id, old.image.id]);
    expect((await ensureImage(paths, 'debian')).id).toBe(next.image.id);
  });

  it('are used without a network', async () => {
    serveDebian(server, disk);
    const { image } = await pull('debian');
    const seen = server.requests.length;
    expect(await ensureImage(paths, 'debian')).toEqual(image);
    expect(server.requests).toHaveLength(seen);
  });
});

describe('connections that fail', () => {
  it('go on where they were cut', async () => {
    serveDebian(server, disk);
    server.fail(DEBIAN_DISK, { kind: 'cut', after: 1_000_000 }, { kind: 'cut', after: 500_000 });
    const { image } = await pull('debian');
    expect(readFileSync(image.disk).equals(disk)).toBe(true);
    const [first, second, third] = server.of(DEBIAN_DISK);
    expect(first?.range).toBeUndefined();
    expect(second?.range).toMatch(/^bytes=[1-9]\d*-$/);
    expect(second?.ifRange).toMatch(/^"[0-9a-f]+"$/);
    expect(Number(third?.range?.slice(6, -1))).toBeGreaterThan(Number(second?.range?.slice(6, -1)));
  });

  it('begin anew where the file has changed in between', async () => {
    serveDebian(server, disk);
    const changed = await smallQcow2(2_000_000, 7);
    server.fail(DEBIAN_DISK, { kind: 'cut', after: 1_000_000 });
    const pulling = pull('debian', {
      onProgress: () => {
        server.put(DEBIAN_DISK, changed);
      },
    });
    // The list was read before: what comes now is something else.
    await expect(pulling).rejects.toMatchObject({ code: 'ECHECKSUM' });
  });

  it('begin anew where the server knows no ranges', async () => {
    serveDebian(server, disk);
    server.fail(DEBIAN_DISK, { kind: 'cut', after: 1_000_000 }, { kind: 'whole' });
    const { image } = await pull('debian');
    expect(readFileSync(image.disk).equals(disk)).toBe(true);
  });

  it('are given up when a server says nothing more, with what came kept for the next time', async () => {
    serveDebian(server, disk);
    const stall = { kind: 'stall', after: 400_000 } as const;
    server.fail(DEBIAN_DISK, stall, { kind: 'stall', after: 0 }, { kind: 'stall', after: 0 });
    await expect(pull('debian', { stallTimeout: 300, attempts: 2 })).rejects.toMatchObject({
      code: 'ENETWORK',
      message: expect.stringContaining('sends nothing any more') as string,
    });
    server.fail(DEBIAN_DISK);
    const { image } = await pull('debian');
    expect(readFileSync(image.disk).equals(disk)).toBe(true);
    expect(server.of(DEBIAN_DISK).at(-1)?.range).toBe('bytes=400000-');
  });

  it('are tried again after errors of the server, not after refusals', async () => {
    serveDebian(server, disk);
    server.fail(DEBIAN_DISK, { kind: 'status', status: 503 }, { kind: 'status', status: 429 });
    await pull('debian');
    expect(server.of(DEBIAN_DISK)).toHaveLength(3);

    serveAlma(server, disk);
    server.fail(ALMA_DISK, { kind: 'status', status: 403 });
    await expect(pull('almalinux')).rejects.toMatchObject({ code: 'EHTTP' });
    expect(server.of(ALMA_DISK)).toHaveLength(1);
  });

  it('end when redirects do not', async () => {
    serveDebian(server, disk);
    server.redirect(DEBIAN_DISK, DEBIAN_DISK);
    await expect(pull('debian')).rejects.toMatchObject({
      code: 'EHTTP',
      message: expect.stringContaining('without an end') as string,
    });
  });

  it('do not follow a redirect out of the web', async () => {
    serveDebian(server, disk);
    server.redirect(DEBIAN_DISK, 'file:///etc/passwd');
    await expect(pull('debian')).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it('end with the signal, and the next pull goes on', async () => {
    serveDebian(server, disk);
    const abort = new AbortController();
    server.fail(DEBIAN_DISK, { kind: 'stall', after: 900_000 });
    const pulling = pull('debian', { signal: abort.signal, onProgress: () => abort.abort() });
    await expect(pulling).rejects.toThrow();
    await pull('debian');
    expect(server.of(DEBIAN_DISK).at(-1)?.range).toMatch(/^bytes=[1-9]/);
  });
});

describe('what is wrong', () => {
  it('is kept away, and named with both checksums', async () => {
    serveDebian(server, disk);
    const other = Buffer.from(disk);
    other[other.length - 1]! ^= 1;
    server.put(DEBIAN_DISK, other);
    await expect(pull('debian')).rejects.toMatchObject({
      code: 'ECHECKSUM',
      message: expect.stringMatching(
        new RegExp(`expected ${sha('sha512', disk)}, got ${sha('sha512', other)}$`),
      ) as string,
    });
    expect(listImages(paths).images).toEqual([]);
    expect(leftovers()).toEqual([]);
  });

  it('is found in the part that an earlier process left, and that is downloaded anew', async () => {
    serveDebian(server, disk);
    server.fail(DEBIAN_DISK, { kind: 'cut', after: 600_000 });
    await expect(pull('debian', { attempts: 1 })).rejects.toMatchObject({ code: 'ENETWORK' });
    const [id] = readdirSync(join(paths.images, '.downloads'));
    const part = join(downloadsFolder(paths, id ?? ''), 'disk.qcow2.part');
    const bytes = readFileSync(part);
    bytes[1000]! ^= 0xff;
    const { writeFileSync } = await import('node:fs');
    writeFileSync(part, bytes);
    const { image } = await pull('debian');
    expect(readFileSync(image.disk).equals(disk)).toBe(true);
  });

  it('is an overlay: it would bring in a file of this machine', async () => {
    const overlay = Buffer.from(disk);
    // QEMU docs/interop/qcow2.txt: offset and length of the backing file name, at 8 and 16
    overlay.writeBigUInt64BE(512n, 8);
    overlay.writeUInt32BE(11, 16);
    overlay.write('/etc/passwd', 512);
    serveDebian(server, overlay);
    await expect(pull('debian')).rejects.toMatchObject({ code: 'EFORMAT' });
    expect(listImages(paths).images).toEqual([]);
  });

  it('is no disk at all', async () => {
    serveDebian(server, Buffer.from('<html>Log in to the network of this hotel</html>'));
    await expect(pull('debian')).rejects.toMatchObject({ code: 'EFORMAT' });
  });

  it('is not in the list of checksums', async () => {
    serveUbuntu(server, disk);
    server.put(UBUNTU_FILES.kernelSums, `${sha('sha256', 'x')} *something-else\n`);
    await expect(pull('ubuntu')).rejects.toMatchObject({
      code: 'ECHECKSUM',
      message: expect.stringContaining('has no checksum of') as string,
    });
    expect(server.of(UBUNTU_FILES.disk)).toEqual([]);
  });

  it('is larger than it may be', async () => {
    serveDebian(server, disk);
    await expect(pull('debian', { limit: 1_000_000 })).rejects.toMatchObject({ code: 'EHTTP' });
  });
});

describe.skipIf(!canMount)('a full disk (skipped where nothing can be mounted)', () => {
  it('is told before a byte is written, with how much is missing', async () => {
    const mount = mountTmpfs(2 * 2 ** 20);
    try {
      const full = managerPaths({ TSVM_HOME: mount.folder });
      serveDebian(server, disk);
      await expect(
        pullImage(full, 'debian', { ...FAST, catalogue: loadCatalogue(paths.config) }),
      ).rejects.toMatchObject({
        code: 'ENOSPC',
        message: expect.stringMatching(/MiB more are needed$/) as string,
      });
      expect(listImages(full).images).toEqual([]);
    } finally {
      mount.release();
    }
  });

  it('goes on when there is space again', async () => {
    const mount = mountTmpfs(8 * 2 ** 20);
    try {
      const full = managerPaths({ TSVM_HOME: mount.folder });
      privateFolder(full.root);
      const { writeFileSync, rmSync } = await import('node:fs');
      const filler = join(mount.folder, 'filler');
      serveDebian(server, disk);
      const catalogue = loadCatalogue(paths.config);
      // It becomes full while the download is under way.
      const pulling = pullImage(full, 'debian', {
        ...FAST,
        catalogue,
        onProgress: () => {
          if (existsSync(filler)) return;
          try {
            writeFileSync(filler, Buffer.alloc(8 * 2 ** 20));
          } catch {
            // as full as it gets
          }
        },
      });
      await expect(pulling).rejects.toMatchObject({ code: 'ENOSPC' });
      rmSync(filler);
      const { image } = await pullImage(full, 'debian', { ...FAST, catalogue });
      expect(readFileSync(image.disk).equals(disk)).toBe(true);
      expect(server.of(DEBIAN_DISK).at(-1)?.range).toMatch(/^bytes=[1-9]/);
    } finally {
      mount.release();
    }
  });
});

describe('two that pull the same image', () => {
  it('download it once, and the second sees how far it is', async () => {
    serveDebian(server, disk);
    let release = (): void => undefined;
    const until = new Promise<void>((resolve) => (release = resolve));
    server.fail(DEBIAN_DISK, { kind: 'hold', after: 1_500_000, until });
    const waits: PullProgress[] = [];
    const first = pull('debian');
    const second = pull('debian', {
      onProgress: (progress) => {
        if (!progress.waiting || progress.bytes === 0) return;
        waits.push(progress);
        release();
      },
    });
    const results = await Promise.all([first, second]);
    expect(results.map(({ isNew }) => isNew).sort()).toEqual([false, true]);
    expect(results[0].image).toEqual(results[1].image);
    expect(server.of(DEBIAN_DISK)).toHaveLength(1);
    expect(waits[0]).toMatchObject({ waiting: true, total: disk.length });
  });
});
