/** Entries that systemd-boot and others of the Boot Loader Specification read, without GRUB's configuration. */
import { blsBoot, BLS_FOLDERS, readBls, type BlsEntry } from './bls.ts';
import type { BootEntry } from './entry.ts';
import { textAt, type Volume } from './volumes.ts';

export async function blsOnlyBoot(volumes: readonly Volume[]): Promise<BootEntry | undefined> {
  for (const folder of BLS_FOLDERS) {
    const entries: BlsEntry[] = [];
    for (const volume of volumes) entries.push(...(await readBls(volume, folder)));
    const entry = (await preferred(volumes, entries)) ?? entries[0];
    if (entry !== undefined) return blsBoot(entry, 'boot loader entry');
  }
  return undefined;
}

/** `default` of loader.conf: a pattern of the names of entries' files. */
async function preferred(
  volumes: readonly Volume[],
  entries: readonly BlsEntry[],
): Promise<BlsEntry | undefined> {
  for (const volume of volumes) {
    const text = await textAt({ volume, path: '/loader/loader.conf' });
    const pattern = /^\s*default\s+(\S+)/m.exec(text ?? '')?.[1];
    if (pattern === undefined) continue;
    return entries.find(({ id }) => matches(pattern, `${id}.conf`) || matches(pattern, id));
  }
  return undefined;
}

/** `*` and `?` as in the names of files; without backtracking, whatever the pattern is. */
function matches(pattern: string, name: string): boolean {
  let [p, n, star, resume] = [0, 0, -1, 0];
  while (n < name.length) {
    if (pattern[p] === '*') {
      star = p++;
      resume = n;
    } else if (pattern[p] === '?' || pattern[p] === name[n]) {
      p++;
      n++;
    } else if (star >= 0) {
      p = star + 1;
      n = ++resume;
    } else return false;
  }
  while (pattern[p] === '*') p++;
  return p === pattern.length;
}
