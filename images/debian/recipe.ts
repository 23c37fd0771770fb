import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { packageRoot } from './cache.ts';
import { RELEASE } from './sources.ts';

/** What the system is made of besides Debian's essential packages and apt. Recommended packages are left out. */
const PACKAGES = [
  // a booting system: the cloud kernel with the initramfs that initramfs-tools makes for it
  ...['systemd', 'systemd-sysv', 'libpam-systemd', 'udev', 'dbus', 'kmod'],
  ...['linux-image-cloud-amd64', 'initramfs-tools', 'busybox', 'zstd', 'e2fsprogs'],
  // network, remote login, the host's agent
  ...['systemd-resolved', 'iproute2', 'iputils-ping', 'openssh-server', 'qemu-guest-agent'],
  // to look at it and to load it
  ...['procps', 'fio'],
];

/** As README tells it. `openssl passwd -6 -salt tsvm tsvm` made the hash; a salt by chance would change the image. */
export const LOGIN = { user: 'root', password: 'tsvm' } as const;
const PASSWORD_HASH =
  '$6$tsvm$LIZUn7I4kRY5iZA6ZGMKgySReIuxZSE5hyuLW.V2N3Zzcy2C.fZWKxZdanECH5axiUq12QR064giObux9NI.8/';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
export const DEFAULT_DISK_SIZE = 4 * GIB;
/** The system takes 0.6 GiB; less than this leaves it no room to work in. */
export const MIN_DISK_SIZE = 1.5 * GIB;
/** 2^32 blocks of 4 KiB: more needs other ext4 features than those of the recipe. */
export const MAX_DISK_SIZE = 16 * 1024 * GIB;

export type RecipeOptions = {
  /** size that the guest sees, in bytes, a multiple of 1 MiB, 1.5 GiB to 16 TiB; default 4 GiB */
  readonly diskSize?: number;
  /** Debian packages to install besides the recipe's own */
  readonly packages?: readonly string[];
  /** SSH public keys, as lines of an authorized_keys file, that may log in as root */
  readonly authorizedKeys?: readonly string[];
};

export type RecipeFile = { readonly path: string; readonly content: string };

/** All that decides on the image but the versions of the packages. */
export type Recipe = {
  readonly release: typeof RELEASE;
  readonly packages: readonly string[];
  readonly diskSize: number;
  readonly passwordHash: string;
  /** files put into the root file system before the packages, by their path in it */
  readonly overlay: readonly RecipeFile[];
  /** scripts and configuration of the build, by name */
  readonly build: readonly RecipeFile[];
  /** SHA-256 of all of the above, in hexadecimal */
  readonly checksum: string;
  /** identifiers that follow from the checksum */
  readonly ids: {
    readonly disk: string;
    readonly partition: string;
    readonly root: string;
    readonly hashSeed: string;
  };
};

/** @throws RangeError on a size, a package name or a key that cannot be */
export async function makeRecipe(options: RecipeOptions = {}): Promise<Recipe> {
  const diskSize = options.diskSize ?? DEFAULT_DISK_SIZE;
  if (
    !Number.isSafeInteger(diskSize) ||
    diskSize < MIN_DISK_SIZE ||
    diskSize > MAX_DISK_SIZE ||
    diskSize % MIB !== 0
  ) {
    throw new RangeError(`disk size ${diskSize}: needs a multiple of 1 MiB, 1.5 GiB to 16 TiB`);
  }
  const more = options.packages ?? [];
  for (const name of more) {
    // Debian policy, section 5.6.1.
    if (!/^[a-z0-9][a-z0-9+.-]+$/.test(name))
      throw new RangeError(`not the name of a Debian package: ${name}`);
  }
  const keys = options.authorizedKeys ?? [];
  for (const key of keys) {
    if (!/^[^\n\0]*\b(ssh|ecdsa|sk)-\S+ [A-Za-z0-9+/=]+[^\n\0]*$/.test(key)) {
      throw new RangeError(`not an SSH public key: ${key.slice(0, 40)}`);
    }
  }
  const source = join(packageRoot(), 'images/debian/system');
  const overlay = await filesBelow(join(source, 'root'));
  if (keys.length > 0)
    overlay.push({ path: 'etc/tsvm-authorized-keys', content: keys.map((k) => `${k}\n`).join('') });
  const content = {
    release: RELEASE,
    packages: [...new Set([...PACKAGES, ...more])].sort(),
    diskSize,
    passwordHash: PASSWORD_HASH,
    overlay,
    build: await Promise.all(
      ['assemble.sh', 'configure.sh', 'mke2fs.conf'].map(async (path) => ({
        path,
        content: await readFile(join(source, path), 'utf8'),
      })),
    ),
  } as const;
  const checksum = sha256(JSON.stringify(content)).toString('hex');
  const id = (what: string) => uuid(`${checksum} ${what}`);
  const ids = { disk: id('disk'), partition: id('partition'), root: id('root'), hashSeed: id('hash seed') };
  const fstab = { path: 'etc/fstab', content: `UUID=${ids.root} / ext4 errors=remount-ro 0 1\n` };
  return { ...content, overlay: [...overlay, fstab], checksum, ids };
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** A UUID that says nothing but what it was made from (RFC 9562, section 5.8). */
function uuid(name: string): string {
  const bytes = sha256(name).subarray(0, 16);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x80, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

async function filesBelow(dir: string): Promise<RecipeFile[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Promise.all(
    files.sort().map(async (file) => ({
      path: file.slice(dir.length + 1),
      content: await readFile(file, 'utf8'),
    })),
  );
}
