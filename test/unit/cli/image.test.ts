import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

import { execa } from 'execa';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import type { VmSettings } from '../../../src/manager/vms/settings.ts';
import { createOverlay } from '../../../src/storage/tools.ts';
import {
  DEBIAN_DISK,
  serveDebian,
  serveUbuntu,
  smallQcow2,
  writeMirrorConfig,
} from '../../support/images/distributors.ts';
import { ImageServer } from '../../support/images/image-server.ts';
import { temporaryFolder } from '../../support/storage/qemu-img.ts';
import { bundle } from './support/bundle.ts';

const program = bundle('../../../../src/cli/main.ts');

let disk: Buffer;
let server: ImageServer;
let home: ReturnType<typeof temporaryFolder>;

beforeAll(async () => {
  disk = await smallQcow2(3_000_000);
});
beforeEach(async () => {
  server = await ImageServer.start();
  home = temporaryFolder();
  writeMirrorConfig(home.file('config.ini'), server);
});
afterEach(async () => {
  await server.close();
  home.remove();
});

/** Runs `tsvm image`. */
function tsvm(args: readonly string[], env: Record<string, string> = {}) {
  return anyVerb(['image', ...args], env);
}

function anyVerb(args: readonly string[], env: Record<string, string> = {}) {
  const clean = {
    HTTP_PROXY: '',
    HTTPS_PROXY: '',
    http_proxy: '',
    https_proxy: '',
    NO_PROXY: '',
    no_proxy: '',
  };
  return execa(process.execPath, [program, ...args], {
    reject: false,
    env: { ...clean, TSVM_HOME: home.path, ...env },
    timeout: 25_000,
  });
}

/** What there is on standard error besides the progress of what takes longer than a second on a busy machine. */
const complaints = (stderr: string): string => stderr.replace(/^pulling \S+: \d+% .*\n?/gm, '');

/** As {@link tsvm}, where it has to succeed without a complaint; returns what it prints. */
async function made(...args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await tsvm(args);
  expect(complaints(stderr)).toBe('');
  expect(exitCode).toBe(0);
  return stdout;
}

type Shown = {
  readonly id: string;
  readonly name: string;
  readonly disk: string;
  readonly usedBy: readonly string[];
};
const shown = async (...args: string[]): Promise<Shown[]> =>
  JSON.parse(await made(...args, '--json')) as Shown[];

/** Waits for something that another process does. */
async function until(isTrue: () => boolean): Promise<void> {
  for (let left = 1000; left > 0 && !isTrue(); left--)
    await new Promise((resolve) => setTimeout(resolve, 10));
  expect(isTrue()).toBe(true);
}

describe('tsvm image', () => {
  it('pulls an image, lists it, tells of it and removes it', async () => {
    serveUbuntu(server, disk);
    expect(await made('pull', 'ubuntu')).toMatch(/^ubuntu: ubuntu-24\.04-[0-9a-f]{12} is here now$/);
    expect(await made('pull', 'ubuntu')).toMatch(/was here already$/);
    const [image] = await shown('ls');
    expect(image).toMatchObject({ name: 'ubuntu:24.04', usedBy: [] });
    expect(await made('ls')).toMatch(
      /^NAME +ID +CREATED +TAKES +DISK +USED BY\nubuntu:24\.04 +ubuntu-24\.04-/,
    );
    expect(await made('ls', '-q')).toBe(image?.id);
    expect(await made('info', 'ubuntu')).toMatch(/^command line: root=LABEL=cloudimg-rootfs ro$/m);
    expect(await made('rm', 'ubuntu')).toBe(`${image?.id ?? ''}: removed`);
    expect(await shown('ls')).toEqual([]);
  });

  it('lists what could be pulled', async () => {
    const all = await shown('ls', '--all');
    expect(all.map(({ name }) => name)).toContain('debian:13');
  });

  it('imports a file', async () => {
    writeFileSync(home.file('mine.qcow2'), disk);
    expect(await made('import', home.file('mine.qcow2'), '--name', 'mine:1')).toMatch(
      /^mine:1: mine-1-[0-9a-f]{12}, qcow2, 64 MiB$/,
    );
  });

  it('gives a VM its kernel, with a console, and an overlay', async () => {
    const { kernel } = serveUbuntu(server, disk);
    expect((await anyVerb(['create', 'ubuntu', '--mem', '1G'])).exitCode).toBe(0);
    const { stdout } = await anyVerb(['info', '--json', 'ubuntu']);
    const { settings } = JSON.parse(stdout) as { settings: VmSettings };
    expect(settings).toMatchObject({
      vm: { image: 'ubuntu:24.04', memory: 2 ** 30, user: 'ubuntu' },
      boot: { cmdline: 'root=LABEL=cloudimg-rootfs ro console=ttyS0' },
      disks: [
        { file: 'root.qcow2', format: 'qcow2' },
        { file: 'seed.img', readOnly: true },
      ],
    });
    expect(readFileSync(settings.boot.kernel!)).toEqual(kernel);
    expect((await shown('ls'))[0]?.usedBy).toEqual(['ubuntu']);
  });

  it('keeps what a VM uses, by rm and by prune', async () => {
    serveDebian(server, disk);
    await made('pull', '-q', 'debian');
    const [image] = await shown('ls');
    mkdirSync(home.file('vms/one'), { recursive: true });
    await createOverlay(
      home.file('vms/one/disk.qcow2'),
      { name: image?.disk ?? '', format: 'qcow2' },
      { trusted: true },
    );
    const { exitCode, stderr } = await tsvm(['rm', 'debian']);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/^tsvm: the image debian-13-[0-9a-f]{12} is used by one\nhint: /);
    expect(await made('prune')).toBe('0 B are free again');
    expect(existsSync(image?.disk ?? '')).toBe(true);
  });

  it.each([
    [['pull', 'plan9'], 1, /there is no image plan9 in the catalogue/],
    [['pull', '../x'], 1, /cannot be the name of an image: \.\.\/x/],
    [['info', 'debian'], 1, /there is no image debian on this machine\nhint: `tsvm image pull debian`/],
    [['import', '/nowhere'], 1, /there is no file \/nowhere/],
    [['build', 'plan9'], 2, /plan9 cannot be built/],
    [['pull'], 2, /missing required argument/],
  ] as const)('says what is wrong: %j', async (args, code, message) => {
    const { exitCode, stdout, stderr } = await tsvm(args);
    expect(stderr).toMatch(message);
    expect(stdout).toBe('');
    expect(exitCode).toBe(code);
  });

  it('names the line of config.ini that is wrong', async () => {
    writeFileSync(home.file('config.ini'), '\n[image "x"]\nkernal = y\n');
    const { stderr } = await tsvm(['ls', '--all']);
    expect(stderr).toMatch(/config\.ini:3: kernal is no key of an image/);
  });

  it('tells of both checksums where one is wrong, and has no image then', async () => {
    serveDebian(server, disk);
    server.put(DEBIAN_DISK, Buffer.concat([disk, Buffer.from('x')]));
    const { exitCode, stderr } = await tsvm(['pull', 'debian']);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/wrong checksum \(sha512\): expected [0-9a-f]{128}, got [0-9a-f]{128}/);
    expect(await shown('ls')).toEqual([]);
  });
});

describe('a pull that is killed', () => {
  it.each(['SIGKILL', 'SIGINT'] as const)('goes on with the next one: %s', async (signal) => {
    serveDebian(server, disk);
    server.fail(DEBIAN_DISK, { kind: 'stall', after: 2_000_000 });
    const pulling = tsvm(['pull', 'debian']);
    const downloads = home.file('images/.downloads');
    await until(() =>
      (existsSync(downloads) ? readdirSync(downloads, { recursive: true, encoding: 'utf8' }) : []).some(
        (name) => name.endsWith('.part') && statSync(join(downloads, name)).size === 2_000_000,
      ),
    );
    pulling.kill(signal);
    await pulling;
    expect(await shown('ls')).toEqual([]);
    await made('pull', 'debian');
    expect(server.of(DEBIAN_DISK).map(({ range }) => range)).toEqual([undefined, 'bytes=2000000-']);
    const [image] = await shown('ls');
    expect(readFileSync(image?.disk ?? '').equals(disk)).toBe(true);
  });
});

describe('pulls of the same image in several processes', () => {
  it('download it once', async () => {
    serveDebian(server, disk);
    let release = (): void => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    server.fail(DEBIAN_DISK, { kind: 'hold', after: 1_000_000, until: released });
    const pulls = Array.from({ length: 4 }, () => tsvm(['pull', 'debian']));
    // All have asked for the list: they are at the lock, or past it.
    await until(() => server.of(DEBIAN_DISK.replace(/[^/]*$/, 'SHA512SUMS')).length === 4);
    release();
    const ends = await Promise.all(pulls);
    expect(ends.map(({ exitCode }) => exitCode)).toEqual([0, 0, 0, 0]);
    expect(ends.filter(({ stdout }) => stdout.endsWith('is here now'))).toHaveLength(1);
    expect(server.of(DEBIAN_DISK)).toHaveLength(1);
    expect(await shown('ls')).toHaveLength(1);
  });
});

describe('proxies', () => {
  /** A proxy for http, and what was asked of it. */
  let proxy: Server;
  let asked: string[];
  beforeEach(async () => {
    asked = [];
    proxy = createServer((request, response) => {
      asked.push(request.url ?? '');
      const onward = httpRequest(request.url ?? '', { headers: request.headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(response);
      });
      onward.on('error', () => response.destroy());
      onward.end();
    });
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  });
  afterEach(async () => {
    proxy.closeAllConnections();
    await new Promise((resolve) => proxy.close(resolve));
  });
  const address = (): string => `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;

  it('are gone through as the environment says', async () => {
    serveDebian(server, disk);
    const { exitCode, stderr } = await tsvm(['pull', 'debian'], { http_proxy: address() });
    expect(complaints(stderr)).toBe('');
    expect(exitCode).toBe(0);
    expect(asked).toContain(`${server.address}${DEBIAN_DISK}`);
  });

  it('are left aside for hosts that NO_PROXY names', async () => {
    serveDebian(server, disk);
    const { exitCode } = await tsvm(['pull', 'debian'], { http_proxy: address(), no_proxy: '127.0.0.1' });
    expect(exitCode).toBe(0);
    expect(asked).toEqual([]);
  });

  it('are tunnelled through for https', async () => {
    const tunnels: string[] = [];
    proxy.on('connect', (request, socket) => {
      tunnels.push(request.url ?? '');
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    });
    writeFileSync(home.file('config.ini'), '');
    const { exitCode, stderr } = await tsvm(['pull', 'debian'], { https_proxy: address() });
    expect(exitCode).toBe(1);
    expect(stderr).toContain('cloud.debian.org');
    expect(tunnels[0]).toBe('cloud.debian.org:443');
  });
});
