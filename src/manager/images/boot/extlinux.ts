/** Configuration of SYSLINUX and EXTLINUX, as Alpine's images have it. */
import { joinWords, type BootEntry } from './entry.ts';
import { describePlace, textAt, type Place, type Volume } from './volumes.ts';

const FILES = ['', '/boot', '/extlinux', '/boot/extlinux', '/syslinux', '/boot/syslinux'].flatMap((folder) =>
  ['extlinux.conf', 'syslinux.cfg'].map((name) => `${folder}/${name}`),
);
const MAX_LINES = 10_000;
const MAX_INCLUDES = 10;

type Label = {
  name: string;
  title: string;
  kernel: string;
  initrds: string[];
  append: string;
  isDefault: boolean;
};

export async function extlinuxBoot(volumes: readonly Volume[]): Promise<BootEntry | undefined> {
  for (const volume of volumes) {
    for (const path of FILES) {
      const entry = await bootOf({ volume, path });
      if (entry !== undefined) return entry;
    }
  }
  return undefined;
}

async function bootOf(place: Place): Promise<BootEntry | undefined> {
  const lines = await linesOf(place, { left: MAX_INCLUDES });
  if (lines === undefined) return undefined;
  const { labels, choice } = parse(lines);
  const bootable = labels.filter(({ kernel }) => kernel !== '');
  const chosen =
    bootable.find(({ isDefault }) => isDefault) ??
    bootable.find(({ name }) => name === choice) ??
    bootable[0];
  if (chosen === undefined) return undefined;
  const folder = place.path.slice(0, place.path.lastIndexOf('/') + 1);
  const located = (path: string): Place => ({
    volume: place.volume,
    path: path.startsWith('/') ? path : `${folder}${path}`,
  });
  // An initrd may be named among the kernel's parameters instead.
  const words = chosen.append.split(/\s+/);
  const named = words.filter((word) => word.startsWith('initrd=')).map((word) => word.slice(7));
  const initrds = [...chosen.initrds, ...named]
    .flatMap((list) => list.split(','))
    .filter((path) => path !== '');
  return {
    title: chosen.title,
    source: `EXTLINUX, ${describePlace(place)}`,
    kernel: located(chosen.kernel),
    initrds: initrds.map(located),
    commandLine: joinWords(words.filter((word) => !word.startsWith('initrd='))),
  };
}

/** With those of files that are included. */
async function linesOf(place: Place, includes: { left: number }): Promise<string[] | undefined> {
  const text = await textAt(place);
  if (text === undefined) return undefined;
  const lines: string[] = [];
  for (const line of text.split('\n').slice(0, MAX_LINES)) {
    const included = /^\s*(?:menu\s+)?include\s+(\S+)/i.exec(line)?.[1];
    if (included === undefined) lines.push(line);
    else if (includes.left-- > 0) {
      const folder = place.path.slice(0, place.path.lastIndexOf('/') + 1);
      const path = included.startsWith('/') ? included : `${folder}${included}`;
      lines.push(...((await linesOf({ volume: place.volume, path }, includes)) ?? []));
    }
  }
  return lines;
}

function parse(lines: readonly string[]): { labels: Label[]; choice: string } {
  const labels: Label[] = [];
  let choice = '';
  let common = '';
  for (const line of lines) {
    const [, command, value = ''] = /^\s*(menu\s+\w+|\w+)(?:\s+(.*?))?\s*$/i.exec(line) ?? [];
    const key = command?.toLowerCase().replace(/\s+/, ' ');
    const label = labels.at(-1);
    if (key === 'label')
      labels.push({ name: value, title: value, kernel: '', initrds: [], append: common, isDefault: false });
    else if (key === 'default' || key === 'ontimeout') choice = value.split(/\s+/)[0]!;
    else if (key === 'append' && label === undefined) common = value;
    else if (label === undefined) continue;
    else if (key === 'menu label') label.title = value.replaceAll('^', '');
    else if (key === 'menu default') label.isDefault = true;
    else if (key === 'linux' || key === 'kernel')
      label.kernel = isModule(value) ? '' : value.split(/\s+/)[0]!;
    else if (key === 'initrd') label.initrds.push(value);
    else if (key === 'append') label.append = value === '-' ? '' : value;
  }
  return { labels, choice };
}

/** Programs of SYSLINUX' own, and sectors: no kernels. */
const isModule = (path: string): boolean => /\.(c32|bin|bss|0)$/i.test(path);
