import { readdir, readFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DebianError } from './cache.ts';
import { readModuleInfo } from './modinfo.ts';
import { fetchPackage, type DebianSuite } from './packages.ts';

export type Kernel = {
  /** as `uname -r` says it, e.g. `6.1.0-37-cloud-amd64` */
  readonly version: string;
  /** bzImage */
  readonly vmlinuz: string;
  /** directory `/lib/modules/VERSION` */
  readonly modules: string;
  /** the configuration that it was built with */
  readonly config: string;
};

export type KernelModule = {
  /** with underscores, as the kernel names it */
  readonly name: string;
  readonly file: string;
};

/**
 * A kernel of Debian's.
 * @param name of the package, e.g. `linux-image-cloud-amd64`
 */
export async function kernelOf(
  name: string,
  options: { readonly suite?: DebianSuite } = {},
): Promise<Kernel> {
  const { root } = await fetchPackage(name, options);
  const vmlinuz = (await readdir(join(root, 'boot'))).find((file) => file.startsWith('vmlinuz-'));
  if (vmlinuz === undefined) throw new DebianError(`the Debian package ${name} holds no kernel`);
  const version = vmlinuz.slice('vmlinuz-'.length);
  const modules = [`lib/modules/${version}`, `usr/lib/modules/${version}`].find((dir) =>
    existsSync(join(root, dir)),
  );
  if (modules === undefined) throw new DebianError(`the Debian package ${name} holds no modules`);
  return {
    version,
    vmlinuz: join(root, 'boot', vmlinuz),
    modules: join(root, modules),
    config: join(root, 'boot', `config-${version}`),
  };
}

/**
 * Modules and all that they need, in an order in which they can be inserted. Those built into the kernel are left
 * out. Read from the modules themselves: modules.dep is made by depmod at installation and is not in the package.
 * @throws DebianError naming a module that the kernel does not have, or that is compressed
 */
export async function moduleOrder(
  kernel: Pick<Kernel, 'modules'>,
  names: Iterable<string>,
): Promise<KernelModule[]> {
  const files = await modulesByName(kernel.modules);
  const builtIn = new Set(
    (await readFile(join(kernel.modules, 'modules.builtin'), 'utf8')).split('\n').map(moduleName),
  );
  const order = new Map<string, KernelModule>();
  const visiting = new Set<string>();

  const visit = async (wanted: string, neededBy: string | undefined): Promise<void> => {
    const name = moduleName(wanted);
    if (builtIn.has(name) || order.has(name) || visiting.has(name)) return;
    const file = files.get(name);
    const by = neededBy === undefined ? '' : `, needed by ${neededBy}`;
    if (file === undefined) throw new DebianError(`no module ${name} in ${kernel.modules}${by}`);
    if (!file.endsWith('.ko')) throw new DebianError(`${file} is compressed; decompress it first`);
    visiting.add(name);
    const { needs, wants } = readModuleInfo(await readFile(file));
    for (const need of needs) await visit(need, name);
    for (const want of wants) if (files.has(moduleName(want))) await visit(want, name);
    order.set(name, { name, file });
  };

  for (const name of names) await visit(name, undefined);
  return [...order.values()];
}

/** `a/b/kvm-amd.ko.xz` -> `kvm_amd` */
function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\.(gz|xz|zst))?$/, '')
    .replaceAll('-', '_');
}

async function modulesByName(dir: string): Promise<Map<string, string>> {
  const all = await readdir(dir, { recursive: true });
  return new Map(
    all
      .filter((file) => /\.ko(\.\w+)?$/.test(file))
      .map((file) => [moduleName(file), join(dir, file)] as const),
  );
}
