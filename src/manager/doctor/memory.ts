import { posix } from 'node:path';

import type { Check } from './check.ts';
import { asRoot, type Host, hostPath, readNumber, readText } from './host.ts';
import { readdir } from 'node:fs/promises';

const MIB = 1024 ** 2;
/** the default VM and tsvm itself */
const COMFORTABLE = 640 * MIB;

/** Memory for guests, and the large pages for it. */
export function memoryChecks(host: Host): Promise<Check[]> {
  return Promise.all([transparentHugePages(host), hugePagePool(host), availableMemory(host)]);
}

async function transparentHugePages(host: Host): Promise<Check> {
  const check = {
    id: 'transparent-huge-pages',
    title: 'transparent huge pages',
    purpose: 'fewer page faults and TLB misses in guests',
  };
  const file = '/sys/kernel/mm/transparent_hugepage/enabled';
  const setting = await readText(host, file);
  if (setting === undefined) {
    return {
      ...check,
      status: 'warning',
      detail: 'this kernel has none',
      fix: 'use a kernel with CONFIG_TRANSPARENT_HUGEPAGE for faster guests',
    };
  }
  const chosen = /\[(\w+)\]/.exec(setting)?.[1] ?? setting;
  if (chosen !== 'never') return { ...check, status: 'ok', detail: chosen };
  return {
    ...check,
    status: 'warning',
    detail: 'switched off',
    fix: `echo madvise | ${asRoot(host, `tee ${file}`)}`,
  };
}

/** A pool is a choice and not a need, so an empty one is well. */
async function hugePagePool(host: Host): Promise<Check> {
  const check = {
    id: 'huge-page-pool',
    title: 'huge page pool',
    purpose: 'guests that ask for reserved huge pages',
  };
  const folder = '/sys/kernel/mm/hugepages';
  const sizes = await readdir(hostPath(host, folder)).catch(() => []);
  const pools = await Promise.all(
    sizes.map(async (name) => {
      const kib = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1]);
      const [free, total] = await Promise.all([
        readNumber(host, `${folder}/${name}/free_hugepages`),
        readNumber(host, `${folder}/${name}/nr_hugepages`),
      ]);
      return { kib, free: free ?? 0, total: total ?? 0 };
    }),
  );
  const filled = pools.filter(({ kib, total }) => kib > 0 && total > 0).sort((a, b) => a.kib - b.kib);
  const detail = filled.map(
    ({ kib, free, total }) =>
      `${free} of ${total} pages of ${kib >= 1024 ** 2 ? `${kib / 1024 ** 2} GiB` : `${kib / 1024} MiB`} free`,
  );
  return { ...check, status: 'ok', detail: detail.length === 0 ? 'empty (optional)' : detail.join(', ') };
}

async function availableMemory(host: Host): Promise<Check> {
  const check = { id: 'memory', title: 'memory', purpose: 'RAM of guests; the default is 512 MiB' };
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec((await readText(host, '/proc/meminfo')) ?? '')?.[1];
  if (kib === undefined)
    return { ...check, status: 'warning', detail: 'not known: /proc/meminfo tells nothing' };
  const available = Number(kib) * 1024;
  const limit = await cgroupLimit(host);
  const usable = Math.min(available, limit);
  const detail = `${Math.floor(available / MIB)} MiB available`;
  const limited =
    limit < available ? `${detail}, but the control group allows ${Math.floor(limit / MIB)} MiB` : detail;
  if (usable >= COMFORTABLE) return { ...check, status: 'ok', detail: limited };
  return {
    ...check,
    status: 'warning',
    detail: limited,
    fix:
      limit < available
        ? 'raise the memory limit of the control group (container)'
        : 'free some memory, or give guests less with --mem',
  };
}

/** The smallest limit of this process's control group and those above it, in bytes (cgroup v2). */
async function cgroupLimit(host: Host): Promise<number> {
  const own = /^0::(\/.*)$/m.exec((await readText(host, '/proc/self/cgroup')) ?? '')?.[1];
  let limit = Infinity;
  for (let group = own; group !== undefined; group = group === '/' ? undefined : posix.dirname(group)) {
    limit = Math.min(limit, (await readNumber(host, `/sys/fs/cgroup${group}/memory.max`)) ?? Infinity);
  }
  return limit;
}
