/** Servers of distributors, as to paths, names and lists of checksums, with small files in the places of large ones. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { createDisk } from '../../../src/storage/tools.ts';
import { Random } from '../../fuzz/random.ts';
import { sha, type ImageServer } from './image-server.ts';

export function noise(size: number, seed: number): Buffer {
  const random = new Random(seed);
  const bytes = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += 4) bytes.writeUInt32LE(random.word(), at);
  return bytes;
}

/** A qcow2 image of an empty disk, with so many bytes behind it that nothing refers to. */
export async function smallQcow2(padding: number, seed = 1): Promise<Buffer> {
  const folder = mkdtempSync(join(tmpdir(), 'tsvm-image-'));
  try {
    const file = join(folder, 'disk.qcow2');
    await createDisk(file, { format: 'qcow2', size: 64 * 2 ** 20 });
    return Buffer.concat([readFileSync(file), noise(padding, seed)]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export type Served = { readonly disk: string; readonly content: Buffer };

const UBUNTU = '/cloud-images.ubuntu.com/releases/noble/release';
export const UBUNTU_FILES = {
  disk: `${UBUNTU}/ubuntu-24.04-server-cloudimg-amd64.img`,
  sums: `${UBUNTU}/SHA256SUMS`,
  kernel: `${UBUNTU}/unpacked/ubuntu-24.04-server-cloudimg-amd64-vmlinuz-generic`,
  initrd: `${UBUNTU}/unpacked/ubuntu-24.04-server-cloudimg-amd64-initrd-generic`,
  kernelSums: `${UBUNTU}/unpacked/SHA256SUMS`,
} as const;

/** Ubuntu: lists as `sha256sum --binary` writes them, one for the disks and one for what is unpacked. */
export function serveUbuntu(server: ImageServer, disk: Buffer): { kernel: Buffer; initrd: Buffer } {
  const [kernel, initrd] = [noise(200_000, 2), noise(300_000, 3)];
  const name = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
  server.put(UBUNTU_FILES.disk, disk);
  server.put(UBUNTU_FILES.kernel, kernel);
  server.put(UBUNTU_FILES.initrd, initrd);
  server.put(
    UBUNTU_FILES.sums,
    [
      `${sha('sha256', 'another')} *ubuntu-24.04-server-cloudimg-amd64.squashfs`,
      `${sha('sha256', disk)} *${name(UBUNTU_FILES.disk)}`,
      `${sha('sha256', 'arm')} *ubuntu-24.04-server-cloudimg-arm64.img`,
      '',
    ].join('\n'),
  );
  server.put(
    UBUNTU_FILES.kernelSums,
    `${sha('sha256', initrd)} *${name(UBUNTU_FILES.initrd)}\n${sha('sha256', kernel)} *${name(UBUNTU_FILES.kernel)}\n`,
  );
  return { kernel, initrd };
}

export const DEBIAN = '/cloud.debian.org/images/cloud/trixie/latest';
export const DEBIAN_DISK = `${DEBIAN}/debian-13-genericcloud-amd64.qcow2`;

/** Debian: SHA-512, as `sha512sum` writes them. */
export function serveDebian(server: ImageServer, disk: Buffer): void {
  server.put(DEBIAN_DISK, disk);
  server.put(
    `${DEBIAN}/SHA512SUMS`,
    `${sha('sha512', 'tar')}  debian-13-genericcloud-amd64.tar.xz\n${sha('sha512', disk)}  debian-13-genericcloud-amd64.qcow2\n`,
  );
}

export const ALMA = '/repo.almalinux.org/almalinux/9/cloud/x86_64/images';
export const ALMA_DISK = `${ALMA}/AlmaLinux-9-GenericCloud-latest.x86_64.qcow2`;

export function serveAlma(server: ImageServer, disk: Buffer): void {
  server.put(ALMA_DISK, disk);
  server.put(`${ALMA}/CHECKSUM`, `${sha('sha256', disk)}  AlmaLinux-9-GenericCloud-latest.x86_64.qcow2\n`);
}

const FEDORA = 'pub/fedora/linux/releases/44/Cloud/x86_64/images';

/** Fedora: the disk by way of another server, the list signed, and as `sha256sum --tag` writes it. */
export function serveFedora(server: ImageServer, disk: Buffer): void {
  const name = 'Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2';
  server.redirect(`/download.fedoraproject.org/${FEDORA}/${name}`, `/mirror-nearby/${name}`);
  server.put(`/mirror-nearby/${name}`, disk);
  server.put(
    `/dl.fedoraproject.org/${FEDORA}/Fedora-Cloud-44-1.7-x86_64-CHECKSUM`,
    [
      '-----BEGIN PGP SIGNED MESSAGE-----',
      'Hash: SHA256',
      '',
      `# ${name}: ${disk.length} bytes`,
      `SHA256 (${name}) = ${sha('sha256', disk)}`,
      '-----BEGIN PGP SIGNATURE-----',
      '',
      'iQIzBAEBCAAdFiEE',
      '-----END PGP SIGNATURE-----',
      '',
    ].join('\n'),
  );
}

/** Alpine: a list of its own for each file, which is the checksum alone. */
export function serveAlpine(server: ImageServer, disk: Buffer): void {
  const path =
    '/dl-cdn.alpinelinux.org/alpine/v3.23/releases/cloud/nocloud_alpine-3.23.4-x86_64-bios-cloudinit-r0.qcow2';
  server.put(path, disk);
  server.put(`${path}.sha512`, `${sha('sha512', disk)}\n`);
}

const HOSTS = [
  'cloud-images.ubuntu.com',
  'cloud.debian.org',
  'repo.almalinux.org',
  'download.fedoraproject.org',
  'dl.fedoraproject.org',
  'dl-cdn.alpinelinux.org',
];

/** Settings that have a server, such as `http://127.0.0.1:8000`, stand for all distributors. */
export function mirrorConfig(address: string): string {
  return `[mirror]\n${HOSTS.map((host) => `https://${host}/ = ${address}/${host}/\n`).join('')}`;
}

export function writeMirrorConfig(file: string, server: ImageServer, more = ''): void {
  writeFileSync(file, `${mirrorConfig(server.address)}${more}`);
}
