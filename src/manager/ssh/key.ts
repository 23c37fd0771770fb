/** The key of this data directory, by which `tsvm ssh` logs in where the user has given none. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import type { ManagerPaths } from '../paths.ts';

const KEY = 'id_ed25519';
const TYPE = 'ssh-ed25519';
const COMMENT = 'tsvm';
/** OpenSSH's PROTOCOL.key: without a cipher the private part is filled up to this, in bytes. */
const CIPHER_BLOCK = 8;

/** A key for a VM: its path, from the VM's folder on, and its line for authorized_keys. */
export type SshKey = { readonly path: string; readonly publicKey: string };

/** The key of a data directory, made where there is none. @throws Error where it is no key that tsvm has made */
export function ensureSshKey(paths: ManagerPaths): SshKey {
  const folder = join(paths.root, 'ssh');
  const path = join(folder, KEY);
  if (!existsSync(path)) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const temporary = join(folder, `.${KEY}-${process.pid}-${randomBytes(4).toString('hex')}`);
    try {
      writeFileSync(temporary, newKey(), { mode: 0o600, flag: 'wx', flush: true });
      linkSync(temporary, path);
    } catch (error) {
      // Another command was faster.
      if (systemCode(error) !== 'EEXIST') throw error;
    } finally {
      rmSync(temporary, { force: true });
    }
  }
  // The data directory may be moved.
  return { path: join(relative(join(paths.vms, 'NAME'), folder), KEY), publicKey: publicKeyOf(path) };
}

function publicKeyOf(path: string): string {
  const body = readFileSync(path, 'utf8').replaceAll(/-----[^-]*-----|\s/g, '');
  const reader = new Reader(Buffer.from(body, 'base64').subarray(MAGIC.length));
  for (let i = 0; i < 3; i++) reader.string();
  reader.number();
  const key = reader.string();
  if (new Reader(key).string().toString() !== TYPE)
    throw new Error(`${path} is not a key that tsvm has made`);
  return `${TYPE} ${key.toString('base64')} ${COMMENT}`;
}

const MAGIC = Buffer.from('openssh-key-v1\0');

/** A new Ed25519 key as OpenSSH writes it (its PROTOCOL.key), without a passphrase. */
function newKey(): string {
  const { privateKey } = generateKeyPairSync('ed25519');
  // RFC 8037: `x` is the public key, `d` the private one.
  const { x = '', d = '' } = privateKey.export({ format: 'jwk' });
  const [pub, seed] = [x, d].map((part) => Buffer.from(part, 'base64url')) as [Buffer, Buffer];
  const publicPart = Buffer.concat([string(TYPE), string(pub)]);
  const check = randomBytes(4);
  const secret = Buffer.concat([
    check,
    check,
    publicPart,
    string(Buffer.concat([seed, pub])),
    string(COMMENT),
  ]);
  const padding = Buffer.from(
    Array.from({ length: (CIPHER_BLOCK - (secret.length % CIPHER_BLOCK)) % CIPHER_BLOCK }, (_, i) => i + 1),
  );
  const one = Buffer.from([0, 0, 0, 1]);
  const whole = Buffer.concat([
    MAGIC,
    string('none'),
    string('none'),
    string(''),
    one,
    string(publicPart),
    string(Buffer.concat([secret, padding])),
  ]);
  const lines = whole.toString('base64').match(/.{1,70}/g) ?? [];
  return ['-----BEGIN OPENSSH PRIVATE KEY-----', ...lines, '-----END OPENSSH PRIVATE KEY-----', ''].join(
    '\n',
  );
}

/** RFC 4251, 5: a string is its length and its bytes. */
function string(value: string | Buffer): Buffer {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

class Reader {
  #rest: Buffer;

  constructor(bytes: Buffer) {
    this.#rest = bytes;
  }

  number(): number {
    const value = this.#rest.readUInt32BE();
    this.#rest = this.#rest.subarray(4);
    return value;
  }

  string(): Buffer {
    const length = this.number();
    const bytes = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return bytes;
  }
}
