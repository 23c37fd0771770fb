/** Entries of the Boot Loader Specification (UAPI.1), type 1: one file each in loader/entries. */
import { joinWords, type BootEntry } from './entry.ts';
import { compareVersions } from './version-order.ts';
import { describePlace, isFile, namesIn, textAt, type Place, type Volume } from './volumes.ts';

/** Takes the value of a variable of GRUB; '' where it has none. */
export type Expand = (text: string) => string;

export type BlsEntry = {
  /** name of the file, without `.conf` and without what counts tries */
  readonly id: string;
  /** more often than it may, it has failed to boot */
  readonly isBad: boolean;
  readonly values: ReadonlyMap<string, readonly string[]>;
  readonly place: Place;
};

const MAX_ENTRIES = 200;
export const BLS_FOLDERS = ['/loader/entries', '/boot/loader/entries'];

/** The first one is what is booted unless something else is chosen. Those without a kernel of Linux are left out. */
export async function readBls(volume: Volume, folder: string): Promise<BlsEntry[]> {
  const names = (await namesIn({ volume, path: folder })).filter((name) => name.endsWith('.conf'));
  const entries: BlsEntry[] = [];
  for (const name of names.sort().slice(0, MAX_ENTRIES)) {
    const place = { volume, path: `${folder}/${name}` };
    const values = parseBls((await textAt(place)) ?? '');
    // NAME+LEFT-DONE.conf where tries are counted
    const counted = /^(.*?)(?:\+(\d+)(?:-\d+)?)?\.conf$/.exec(name)!;
    if (values.has('linux'))
      entries.push({ id: counted[1]!, isBad: Number(counted[2] ?? 1) === 0, values, place });
  }
  return entries.sort(order);
}

function parseBls(text: string): Map<string, string[]> {
  const values = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [, key, value] = /^\s*([A-Za-z][\w-]*)\s+(.*?)\s*$/.exec(line) ?? [];
    if (key === undefined || value === undefined || value === '') continue;
    values.set(key, [...(values.get(key) ?? []), value]);
  }
  return values;
}

const valueOf = (entry: BlsEntry, key: string): string | undefined => entry.values.get(key)?.[0];

function order(a: BlsEntry, b: BlsEntry): number {
  if (a.isBad !== b.isBad) return a.isBad ? 1 : -1;
  const [keyA, keyB] = [valueOf(a, 'sort-key'), valueOf(b, 'sort-key')];
  if ((keyA === undefined) !== (keyB === undefined)) return keyA === undefined ? 1 : -1;
  if (keyA !== undefined && keyB !== undefined) {
    const byKey = text(keyA, keyB) || text(valueOf(a, 'machine-id') ?? '', valueOf(b, 'machine-id') ?? '');
    const byVersion = compareVersions(valueOf(b, 'version') ?? '', valueOf(a, 'version') ?? '');
    if (byKey !== 0 || byVersion !== 0) return byKey || byVersion;
  }
  return compareVersions(b.id, a.id) || text(a.place.path, b.place.path);
}

const text = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** @param expand of GRUB, whose entries have variables in them */
export async function blsBoot(
  entry: BlsEntry,
  loader: string,
  expand: Expand = (text) => text,
): Promise<BootEntry> {
  const { values, place, id } = entry;
  const all = (key: string): string[] => (values.get(key) ?? []).map(expand);
  const files = (key: string): string[] =>
    all(key).flatMap((value) => value.split(/\s+/).filter((path) => path !== ''));
  const located = async (path: string): Promise<Place> => {
    const absolute = { volume: place.volume, path: `/${path}` };
    // Where /boot is no file system of its own, some have it in the paths and some do not.
    const inBoot = { volume: place.volume, path: `/boot/${path}` };
    return !(await isFile(absolute)) && (await isFile(inBoot)) ? inBoot : absolute;
  };
  const initrds: Place[] = [];
  for (const path of files('initrd')) initrds.push(await located(path));
  return {
    title: valueOf(entry, 'title') ?? id,
    source: `${loader}, ${describePlace(place)}`,
    kernel: await located(files('linux')[0] ?? ''),
    initrds,
    commandLine: joinWords(all('options').map((words) => words.trim())),
  };
}
