import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, readdir, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { writeRepository, type PackageFile } from './archive.ts';
import { debianCache, DebianError, packageRoot } from './cache.ts';
import type { DiskLayout } from './disk-layout.ts';
import type { Recipe } from './recipe.ts';
import { PUBLIC_SOURCES } from './sources.ts';

/** What a build has on disk at once: the packages, the tree, the image. */
const SPACE_NEEDED = 2.5 * 1024 ** 3;
const RESULTS = ['disk.raw', 'vmlinuz', 'initrd.img'] as const;
const TOOLS = {
  mmdebstrap: 'mmdebstrap',
  mke2fs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  sfdisk: 'fdisk',
} as const;
/** Debian's users have no sbin in their PATH; the build needs it in any case. */
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const LOG_LINES = 40;

export type Assembly = {
  readonly recipe: Recipe;
  readonly packages: readonly PackageFile[];
  readonly layout: DiskLayout;
  /** directory for disk.raw, vmlinuz and initrd.img */
  readonly into: string;
  readonly progress: (line: string) => void;
};

/**
 * Installs the packages into a tree and makes a disk of it (system/assemble.sh), as root of the machine or of a user
 * namespace.
 * @returns the packages that were installed
 * @throws DebianError with the end of what the tools said
 */
export async function assemble(assembly: Assembly): Promise<PackageFile[]> {
  checkTools();
  const asRoot = process.getuid?.() === 0;
  if (!asRoot) await checkNamespaces();
  await removeWorkspaces(asRoot);
  const parent = workspaces(asRoot);
  await checkSpace(parent);
  await mkdir(parent, { recursive: true });
  const workspace = await mkdtemp(join(parent, workspacePrefix()));
  try {
    // Root of the namespace is another user than we are.
    await chmod(workspace, 0o777);
    await fill(workspace, assembly);
    await run(workspace, assembly, asRoot);
    for (const name of RESULTS) {
      // Not renamed: what a namespace's root made is not ours, and a copy leaves out what mke2fs only reserved.
      await copySparse(join(workspace, name), join(assembly.into, name));
    }
    return installed(await readFile(join(workspace, 'installed'), 'utf8'), assembly.packages);
  } finally {
    await removeWorkspace(workspace, asRoot);
  }
}

function checkTools(): void {
  const missing = Object.entries(TOOLS)
    .filter(([tool]) => !PATH.split(':').some((dir) => existsSync(join(dir, tool))))
    .map(([, name]) => name);
  if (missing.length > 0) {
    throw new DebianError(
      `building Debian needs more packages: apt-get install ${[...new Set(missing)].join(' ')}`,
    );
  }
}

async function checkNamespaces(): Promise<void> {
  const probe = [
    '--unshare-helper',
    'sh',
    '-c',
    'mount -t tmpfs none "$0" && touch "$0/file" && chown 1:1 "$0/file"',
  ];
  const dir = await mkdtemp('/tmp/tsvm-probe-');
  try {
    await chmod(dir, 0o777);
    const { failed, stderr } = await execa('mmdebstrap', [...probe, dir], { env: { PATH }, reject: false });
    if (!failed) return;
    const said =
      stderr.split('\n').find((line) => line.startsWith('E: ')) ?? stderr.trim().split('\n').at(-1) ?? '';
    throw new DebianError(
      `building Debian without root needs user namespaces and a range of subordinate ids (${said}): ` +
        'apt-get install uidmap, usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, ' +
        'and kernel.apparmor_restrict_unprivileged_userns=0 where AppArmor forbids them; or build as root',
    );
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function checkSpace(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  const { bavail, bsize } = await statfs(dir);
  if (bavail * bsize < SPACE_NEEDED) {
    const gib = (bytes: number) => (bytes / 1024 ** 3).toFixed(1);
    throw new DebianError(
      `building Debian needs ${gib(SPACE_NEEDED)} GiB of space, ${dir} has ${gib(bavail * bsize)} GiB`,
    );
  }
}

async function fill(workspace: string, { recipe, packages, layout }: Assembly): Promise<void> {
  await writeRepository(packages, join(workspace, 'repository'));
  const files = [
    ...recipe.overlay.map(({ path, content }) => ({ path: join('root', path), content })),
    ...recipe.build,
    { path: 'partitions', content: layout.script },
  ];
  for (const { path, content } of files) {
    await mkdir(dirname(join(workspace, path)), { recursive: true });
    await writeFile(join(workspace, path), content);
  }
  await copyFile(join(packageRoot(), 'images/debian/system/confine.sh'), join(workspace, 'confine.sh'));
}

async function run(workspace: string, assembly: Assembly, asRoot: boolean): Promise<void> {
  const { recipe, packages, layout, progress } = assembly;
  const command = ['sh', 'confine.sh', 'sh', 'assemble.sh'];
  const child = execa(
    asRoot ? 'sh' : 'mmdebstrap',
    asRoot ? command.slice(1) : ['--unshare-helper', ...command],
    {
      cwd: workspace,
      extendEnv: false,
      env: {
        PATH,
        LC_ALL: 'C.UTF-8',
        HOME: '/nonexistent',
        DEBIAN_FRONTEND: 'noninteractive',
        // The newest package's: a rebuild from the same ones has the same times.
        SOURCE_DATE_EPOCH: String(Math.max(...packages.map(({ date }) => date))),
        TSVM_PACKAGES: recipe.packages.join(','),
        TSVM_COUNT: String(packages.length),
        TSVM_PASSWORD_HASH: recipe.passwordHash,
        TSVM_SOURCES: PUBLIC_SOURCES,
        TSVM_DISK_SIZE: String(recipe.diskSize),
        TSVM_ROOT_OFFSET: String(layout.rootOffset),
        TSVM_ROOT_KIB: String(layout.rootSize / 1024),
        TSVM_ROOT_UUID: recipe.ids.root,
        TSVM_HASH_SEED: recipe.ids.hashSeed,
      },
      // Open as long as we live: its end ends the build.
      stdin: 'pipe',
      all: true,
      reject: false,
    },
  );
  const tail: string[] = [];
  for await (const line of createInterface({ input: child.all })) {
    const step = /^tsvm-step: (.*)$/.exec(line)?.[1];
    if (step !== undefined) progress(`building Debian 12: ${step}`);
    else tail.push(line);
    if (tail.length > LOG_LINES) tail.shift();
  }
  child.stdin.end();
  const result = await child;
  if (!result.failed) return;
  const said = tail.join('\n');
  if (/No space left on device|Could not allocate block/.test(said)) {
    throw new DebianError(
      `building Debian: no space left in ${dirname(workspace)}, or in a disk of this size`,
    );
  }
  throw new DebianError(`building Debian failed (${result.shortMessage ?? ''}):\n${said}`);
}

function installed(list: string, packages: readonly PackageFile[]): PackageFile[] {
  const key = (name: string, version: string, architecture: string) => `${name} ${version} ${architecture}`;
  const files = new Map(packages.map((file) => [key(file.name, file.version, file.architecture), file]));
  return list
    .trimEnd()
    .split('\n')
    .map((line) => {
      const file = files.get(line);
      if (file === undefined) throw new DebianError(`the image has a package that was not given: ${line}`);
      return file;
    });
}

/** Root works in the cache. A namespace's root may not be able to reach a cache in somebody's home. */
function workspaces(asRoot: boolean): string {
  return asRoot ? join(debianCache(), 'images') : (process.env['TMPDIR'] ?? '/var/tmp');
}

/** Names the cache too: its lock makes us the only one who has workspaces of this name. */
function workspacePrefix(): string {
  const cache = createHash('sha256').update(debianCache()).digest('hex').slice(0, 12);
  return `tsvm-image-${process.getuid?.() ?? 0}-${cache}.tmp-`;
}

async function removeWorkspaces(asRoot: boolean): Promise<void> {
  const parent = workspaces(asRoot);
  for (const entry of await readdir(parent).catch(() => [])) {
    if (entry.startsWith(workspacePrefix())) await removeWorkspace(join(parent, entry), asRoot);
  }
}

async function removeWorkspace(workspace: string, asRoot: boolean): Promise<void> {
  if (!asRoot) {
    const clear = ['--unshare-helper', 'find', workspace, '-mindepth', '1', '-delete'];
    await execa('mmdebstrap', clear, { env: { PATH }, reject: false, stdin: 'ignore' });
  }
  await rm(workspace, { recursive: true, force: true });
}

async function copySparse(from: string, to: string): Promise<void> {
  const { failed, stderr } = await execa('cp', ['--sparse=always', '--reflink=auto', from, to], {
    reject: false,
  });
  if (failed) throw new DebianError(`cannot copy the image: ${stderr}`);
}
