import { execa } from 'execa';
import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { debianCache, DebianError, step } from './cache.ts';
import { debianSources, RELEASE, sourcesList, type DebianSources } from './sources.ts';

/** Package lists older than this are fetched anew before something is downloaded by them. */
const LISTS_MAX_AGE_MS = 24 * 3600 * 1000;
const ATTEMPTS = 3;
/** What of the host's apt configuration matters for reaching a mirror; hooks and the like must not run here. */
const NETWORK_OPTIONS = /^Acquire::(https?|Check-Valid-Until|Check-Date|ForceIPv[46]|Max-FutureTime)\b/i;

/** `bookworm` means the release with its updates and security fixes. */
export type DebianSuite = typeof RELEASE | `${typeof RELEASE}-backports`;

/**
 * apt with a root of its own below the cache: its own sources, lists, cache and an empty list of installed packages,
 * so it needs no privilege, changes nothing of the host and resolves the same on any host. apt checks the archive's
 * signatures and the packages' checksums.
 */
export class PrivateApt {
  readonly #dir: string;
  readonly #env: { readonly APT_CONFIG: string; readonly LC_ALL: string };

  constructor() {
    this.#dir = join(debianCache(), 'apt');
    this.#env = { APT_CONFIG: join(this.#dir, 'apt.conf'), LC_ALL: 'C' };
  }

  /** Downloads one package into a directory. @returns the names of the files that are there then are apt's */
  async download(name: string, suite: DebianSuite, into: string): Promise<void> {
    await this.#withLists(`download ${name} (${suite})`, async () => {
      await this.#run(['download', ...targetRelease(suite), name], into);
    });
  }

  /** Downloads a package and all it depends on, as for a system that has nothing installed. */
  async downloadClosure(name: string, suite: DebianSuite, into: string): Promise<void> {
    await mkdir(join(into, 'partial'), { recursive: true });
    await this.#withLists(`download ${name} (${suite}) and its dependencies`, async () => {
      await this.#run(
        [
          ...['install', '--download-only', '--no-install-recommends', '--yes'],
          ...['-o', `Dir::Cache::archives=${into}`],
          ...targetRelease(suite),
          name,
        ],
        into,
      );
    });
  }

  /**
   * Downloads what makes a system that holds the named packages: those, the essential ones, apt, and all they depend
   * on. Files that are in the directory already are checked and kept. @returns the names of the system's files
   */
  async downloadSystem(names: readonly string[], into: string): Promise<string[]> {
    const nowhere = join(this.#dir, 'cache/none');
    const install = ['install', '--no-install-recommends', '--yes', '?essential', 'apt', ...names];
    return this.#withLists('download the packages of a system', async () => {
      await mkdir(join(nowhere, 'partial'), { recursive: true });
      await mkdir(join(into, 'partial'), { recursive: true });
      // apt names only the files that it would have to fetch: all of them where its archive is empty.
      const uris = await this.#run(
        [...install, '--print-uris', '-o', `Dir::Cache::archives=${nowhere}`],
        into,
      );
      await this.#run([...install, '--download-only', '-o', `Dir::Cache::archives=${into}`], into);
      return [...uris.matchAll(/^'[^']+' (\S+\.deb) \d+ /gm)].map((match) => match[1]!);
    });
  }

  /** Downloads packages at just these versions. */
  async downloadVersions(
    packages: readonly { readonly name: string; readonly version: string }[],
    into: string,
  ): Promise<void> {
    const wanted = packages.map(({ name, version }) => `${name}=${version}`);
    await this.#withLists('download the packages of a list', async () => {
      await this.#run(['download', ...wanted], into);
    });
  }

  /** Has the package lists fetched anew before the next download. */
  async forgetLists(): Promise<void> {
    await rm(join(this.#dir, 'updated'), { force: true });
  }

  /** Runs something that needs package lists: fetches them where they are missing, old, or do not lead to a file. */
  async #withLists<T>(what: string, work: () => Promise<T>): Promise<T> {
    try {
      if (await this.#listsAreFresh()) {
        try {
          return await work();
        } catch {
          // The archive may have replaced the version that our lists know; new lists tell.
        }
      }
      await step('fetching the package lists of Debian', () => this.#update());
      return await retry(work);
    } catch (error) {
      if (!(error instanceof AptFailure)) throw error;
      throw new DebianError(
        `cannot ${what}: ${error.message}; check the network, or name another mirror in TSVM_DEBIAN_MIRROR`,
      );
    }
  }

  async #listsAreFresh(): Promise<boolean> {
    try {
      return Date.now() - (await stat(join(this.#dir, 'updated'))).mtimeMs < LISTS_MAX_AGE_MS;
    } catch {
      return false;
    }
  }

  async #update(): Promise<void> {
    const sources = await debianSources();
    await this.#configure(sources, true);
    try {
      await retry(() => this.#run(['update', '-o', 'APT::Update::Error-Mode=any'], this.#dir));
    } catch (error) {
      // Backports leave the mirrors before the release does.
      if (!(error instanceof AptFailure) || !error.message.includes('-backports')) throw error;
      await this.#configure(sources, false);
      await this.#run(['update', '-o', 'APT::Update::Error-Mode=any'], this.#dir);
    }
    await writeFile(join(this.#dir, 'updated'), '');
  }

  async #configure(sources: DebianSources, backports: boolean): Promise<void> {
    const dir = this.#dir;
    for (const part of ['etc', 'state/lists/partial', 'cache/archives/partial', 'log']) {
      await mkdir(join(dir, part), { recursive: true });
    }
    await writeFile(join(dir, 'etc/sources.list'), sourcesList(sources, { backports }));
    await writeFile(join(dir, 'state/status'), '');
    const host = await execa('apt-config', ['dump'], { reject: false });
    const network = host.failed ? [] : host.stdout.split('\n').filter((line) => NETWORK_OPTIONS.test(line));
    const own = {
      'Dir::Etc': join(dir, 'etc'),
      'Dir::State': join(dir, 'state'),
      'Dir::State::status': join(dir, 'state/status'),
      'Dir::Cache': join(dir, 'cache'),
      'Dir::Log': join(dir, 'log'),
      'APT::Architecture': 'amd64',
      'APT::Architectures': 'amd64',
      // The directories are the caller's: apt's own download user could not write to them.
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
      'Acquire::Retries': '0',
    };
    const lines = Object.entries(own).map(([key, value]) => `${key} ${JSON.stringify(value)};`);
    await writeFile(this.#env.APT_CONFIG, [...lines, ...network, ''].join('\n'));
  }

  /** @returns what apt-get printed */
  async #run(args: readonly string[], cwd: string): Promise<string> {
    const command = ['-q', '-o', 'Debug::NoLocking=true', ...args];
    const result = await execa('apt-get', command, { cwd, env: this.#env, reject: false, stdin: 'ignore' });
    if (!result.failed) return result.stdout;
    if (result.code === 'ENOENT') {
      throw new DebianError('apt-get is not there: fetching Debian packages needs a Debian or Ubuntu host');
    }
    const said = result.stderr.split('\n').filter((line) => /^[EW]: /.test(line));
    const errors = said.filter((line) => line.startsWith('E: ')).slice(0, 3);
    throw new AptFailure(
      (errors.length > 0 ? errors : [result.shortMessage]).join(' ').replaceAll('E: ', ''),
    );
  }
}

/** Nothing for the release itself: naming it would put it before its own security fixes. */
function targetRelease(suite: DebianSuite): string[] {
  return suite === RELEASE ? [] : ['--target-release', suite];
}

/** apt-get said no; the message is what it said. */
class AptFailure extends Error {
  override readonly name = 'AptFailure';
}

async function retry<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === ATTEMPTS || !(error instanceof AptFailure)) throw error;
      await sleep(1000 * attempt);
    }
  }
}
