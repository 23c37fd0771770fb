import { execa } from 'execa';
import { existsSync, readFileSync } from 'node:fs';
import { DebianError } from './cache.ts';

/** The release that tsvm's images and its lab are made of. */
export const RELEASE = 'bookworm';

const PUBLIC_MIRROR = 'http://deb.debian.org/debian';
const PUBLIC_SECURITY = 'http://deb.debian.org/debian-security';
const KEYRINGS = ['debian-archive-keyring.gpg', 'debian-archive-keyring.pgp'].map(
  (f) => `/usr/share/keyrings/${f}`,
);

export type DebianSources = {
  /** base URI of the archive, without a slash at its end */
  readonly mirror: string;
  /** base URI of the security archive */
  readonly security: string;
  /** file with the archive's public keys */
  readonly keyring: string;
};

/** Where Debian packages come from on this host: TSVM_DEBIAN_MIRROR, else the host's own mirror, else Debian's. */
export async function debianSources(): Promise<DebianSources> {
  const keyring = KEYRINGS.find((file) => existsSync(file));
  if (keyring === undefined) {
    throw new DebianError(
      `no Debian archive keys at ${KEYRINGS[0]!}: install the package debian-archive-keyring`,
    );
  }
  const configured = process.env['TSVM_DEBIAN_MIRROR'];
  if (configured !== undefined && configured !== '') {
    const mirror = configured.replace(/\/+$/, '');
    return { mirror, security: `${mirror}-security`, keyring };
  }
  const own = hostIsDebian() ? await hostRepositories() : [];
  return {
    mirror: own.find((uri) => uri.endsWith('/debian')) ?? PUBLIC_MIRROR,
    security: own.find((uri) => uri.endsWith('/debian-security')) ?? PUBLIC_SECURITY,
    keyring,
  };
}

/** Lines of a sources.list. */
export function sourcesList(sources: DebianSources, options: { readonly backports: boolean }): string {
  const line = (uri: string, suite: string) => `deb [signed-by=${sources.keyring}] ${uri} ${suite} main\n`;
  return (
    line(sources.mirror, RELEASE) +
    line(sources.mirror, `${RELEASE}-updates`) +
    line(sources.security, `${RELEASE}-security`) +
    (options.backports ? line(sources.mirror, `${RELEASE}-backports`) : '')
  );
}

/** sources.list of an image: Debian's public mirrors, wherever the image was built. */
export const PUBLIC_SOURCES = sourcesList(
  { mirror: PUBLIC_MIRROR, security: PUBLIC_SECURITY, keyring: KEYRINGS[0]! },
  { backports: false },
);

function hostIsDebian(): boolean {
  try {
    return /^ID=("?)debian\1$/m.test(readFileSync('/etc/os-release', 'utf8'));
  } catch {
    return false;
  }
}

/** URIs of the repositories that the host's apt is set up with, whatever format its sources have. */
async function hostRepositories(): Promise<string[]> {
  const format = ['indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages'];
  const { stdout, failed } = await execa('apt-get', format, { reject: false });
  if (failed) return [];
  return stdout
    .split('\n')
    .map((uri) => uri.replace(/\/+$/, ''))
    .filter((uri) => /^https?:\/\//.test(uri));
}
