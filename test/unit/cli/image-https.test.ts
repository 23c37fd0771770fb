/** Images by https: from a server with a certificate of the user's own, directly and through a proxy's tunnel. */
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  DEBIAN_DISK,
  serveDebian,
  smallQcow2,
  writeMirrorConfig,
} from '../../support/images/distributors.ts';
import { ImageServer, type TlsIdentity } from '../../support/images/image-server.ts';
import { temporaryFolder } from '../../support/storage/qemu-img.ts';
import { bundle } from './support/bundle.ts';

const program = bundle('../../../../src/cli/main.ts');
const NO_PROXIES = Object.fromEntries(
  ['http_proxy', 'https_proxy', 'no_proxy'].flatMap((name) => [
    [name, ''],
    [name.toUpperCase(), ''],
  ]),
);

const certificates = temporaryFolder();
const authority = certificates.file('cert.pem');
let tls: TlsIdentity;
let disk: Buffer;
let server: ImageServer;
let home: ReturnType<typeof temporaryFolder>;

beforeAll(async () => {
  const key = certificates.file('key.pem');
  const subject = ['-subj', '/CN=images', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2'];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  await execa('openssl', ['req', '-x509', ...kind, ...subject, '-keyout', key, '-out', authority]);
  tls = { key: readFileSync(key, 'utf8'), cert: readFileSync(authority, 'utf8') };
  disk = await smallQcow2(1_000_000);
});
afterAll(() => certificates.remove());
beforeEach(async () => {
  server = await ImageServer.start(tls);
  serveDebian(server, disk);
  home = temporaryFolder();
  writeMirrorConfig(home.file('config.ini'), server);
});
afterEach(async () => {
  await server.close();
  home.remove();
});

function pull(env: Record<string, string>) {
  return execa(process.execPath, [program, 'image', 'pull', '--quiet', 'debian'], {
    reject: false,
    env: { ...NO_PROXIES, TSVM_HOME: home.path, ...env },
    timeout: 25_000,
  });
}

const trusted = { NODE_EXTRA_CA_CERTS: authority };

describe('an image by https', () => {
  it('comes from a server whose certificate is among those of NODE_EXTRA_CA_CERTS', async () => {
    const { exitCode, stdout, stderr } = await pull(trusted);
    expect([exitCode, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^debian-13-[0-9a-f]{12}$/);
    expect(server.of(DEBIAN_DISK)).toHaveLength(1);
  });

  it('does not come from one whose certificate nobody vouches for', async () => {
    const { exitCode, stderr } = await pull({});
    expect([exitCode, stderr]).toEqual([1, expect.stringMatching(/self-signed certificate/)]);
    expect(server.requests).toEqual([]);
  });
});

describe("a proxy's tunnel", () => {
  let proxy: Server;
  let tunnels: { readonly to: string | undefined; readonly authorization: string | undefined }[];
  let plain: number;

  beforeEach(async () => {
    tunnels = [];
    plain = 0;
    proxy = createServer((_, response) => {
      plain++;
      response.writeHead(400).end();
    });
    proxy.on('connect', (request, client) => {
      tunnels.push({ to: request.url, authorization: request.headers['proxy-authorization'] });
      const onward = connect(Number(new URL(server.address).port), '127.0.0.1', () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        client.pipe(onward).pipe(client);
      });
      for (const each of [client, onward]) each.on('error', () => each.destroy());
    });
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  });
  afterEach(async () => {
    proxy.closeAllConnections();
    await new Promise((resolve) => proxy.close(resolve));
  });

  it('carries an image, which is checked from end to end', async () => {
    const { port } = proxy.address() as AddressInfo;
    const { exitCode, stderr } = await pull({ ...trusted, https_proxy: `http://who:word@127.0.0.1:${port}` });
    expect([exitCode, stderr]).toEqual([0, '']);
    const to = server.address.replace('https://', '');
    const authorization = `Basic ${Buffer.from('who:word').toString('base64')}`;
    expect(new Set(tunnels.map((tunnel) => JSON.stringify(tunnel)))).toEqual(
      new Set([JSON.stringify({ to, authorization })]),
    );
    expect(plain).toBe(0);
  });

  it('is no way around the check of the certificate', async () => {
    const { port } = proxy.address() as AddressInfo;
    const { exitCode, stderr } = await pull({ https_proxy: `http://127.0.0.1:${port}` });
    expect([exitCode, stderr]).toEqual([1, expect.stringMatching(/self-signed certificate/)]);
    expect(tunnels.length).toBeGreaterThan(0);
    expect(server.requests).toEqual([]);
  });
});
