/** `vm.ini`: all settings of a VM, to be read and written by hand too. */
import { readFileSync } from 'node:fs';
import { safe } from 'ini';
import * as v from 'valibot';
import { parseForward } from '../../net/forward.ts';
import { parseShare } from '../options/device-options.ts';
import { parseNet } from '../options/net-options.ts';
import { parseCpuTime, parseSize } from '../sizes.ts';
import { IniError, parseIni, type IniSection } from '../ini.ts';
import { vmSettings, type VmSettings } from './settings.ts';

type Kind = 'text' | 'size' | 'whole' | 'number' | 'switch';
export type List = { readonly prefix: string; readonly about: string };
export type Field = {
  readonly key: string;
  readonly property: string;
  readonly kind: Kind;
  readonly about: string;
};

export const field = (key: string, kind: Kind, about: string): Field => ({
  key,
  property: key.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase()),
  kind,
  about,
});

const VM: readonly Field[] = [
  field('image', 'text', 'what it was made from'),
  field('user', 'text', 'who logs in, with `tsvm ssh`'),
  field('ssh-key', 'text', "private key of `tsvm ssh`; none: ssh's own choice"),
  field('identity', 'text', "what MAC addresses are made of; none: the VM's name"),
  field('memory', 'size', 'RAM, such as 768M or 2G'),
  field('cpus', 'whole', 'virtual CPUs, 1 to 32'),
  field('cpu', 'text', 'CPU features to add and to hide, such as +avx2,-rdrand'),
  field('console', 'text', 'serial or hvc0'),
  field('transport', 'text', 'pci or mmio'),
  field('jail', 'text', 'on, or off for debugging: whether its process gives up what it does not need'),
  field('cpu-limit', 'number', 'CPU time that its process may take, as a number of CPUs, such as 1.5'),
  field('memory-limit', 'size', 'memory that its process may take: RAM and some 100M for tsvm itself'),
  field('balloon', 'switch', 'whether the host can take memory back: yes or no'),
];
const BOOT: readonly Field[] = [
  field(
    'kernel',
    'text',
    "bzImage or vmlinux, from the VM's folder on; none: what the boot loader on the first disk would boot",
  ),
  field('initrd', 'text', 'initial RAM disk; none: that of the boot loader'),
  field('cmdline', 'text', 'kernel command line; none: that of the boot loader'),
];
const DISK: readonly Field[] = [
  field('file', 'text', 'disk image'),
  field('format', 'text', 'raw or qcow2'),
  field('trust-backing', 'switch', 'whether files below the image may lie in other folders'),
  field('read-only', 'switch', 'yes or no'),
  field('cache', 'text', 'writeback, none or unsafe'),
  field('serial', 'text', 'what the guest sees as its serial number'),
];

const NETWORK: readonly Field[] = [
  field('host-access', 'switch', "whether the guest reaches what listens on this host's loopback"),
];
/** Of lists: keys are numbers, or a word and a number. */
const CARD = {
  prefix: 'card.',
  about: 'network cards card.0, card.1, …: user, vmnet=NETWORK, tap=NAME, none; as `--net`',
};
const PUBLISH = {
  prefix: 'publish.',
  about: 'ports of this host publish.0, …: [ADDR:]HOST:GUEST[/udp]; as `--publish`',
};
const SHARE = { prefix: 'share.', about: 'folders of this host share.0, …: HOST:GUEST[:ro]; as `--share`' };
const SECTIONS = ['vm', 'boot', 'network', 'shares'];
const LISTED = /^(0|[1-9]\d?)$/;

const MIB = 2 ** 20;

/** @throws IniError, and what reading the file throws */
export const readVmIni = (path: string): VmSettings => parseVmIni(readFileSync(path, 'utf8'), path);

/** @throws IniError naming file, line and what is wrong */
export function parseVmIni(text: string, path: string): VmSettings {
  const sections = parseIni(text, path);
  const find = (name: string): IniSection | undefined => sections.find((each) => each.name === name);
  const disks = sections.filter((each) => diskNumber(each.name) >= 0);
  disks.sort((a, b) => diskNumber(a.name) - diskNumber(b.name));
  for (const each of sections) {
    if (SECTIONS.includes(each.name) || disks.includes(each)) continue;
    if (each.name !== '')
      throw each.error(`there is no such section; there are ${SECTIONS.join(', ')}, disk.0 to disk.25`);
    const [first] = each.values.keys();
    if (first !== undefined) throw each.error(`'${first}' is in no section`, first);
  }
  const result = v.safeParse(vmSettings, {
    vm: read(find('vm'), VM),
    boot: read(find('boot'), BOOT),
    disks: disks.map((each) => read(each, DISK)),
    network: {
      ...read(find('network'), NETWORK, [CARD, PUBLISH]),
      cards: list(find('network'), CARD, parseNet),
      publish: list(find('network'), PUBLISH, parseForward),
    },
    shares: sharesOf(find('shares')),
  });
  if (result.success) return result.output;
  throw errorOf(result.issues[0], path, (top, index) => (top === 'disks' ? disks[index] : find(top)));
}

function diskNumber(section: string): number {
  const match = /^disk\.(\d|1\d|2[0-5])$/.exec(section);
  return match === null ? -1 : Number(match[1]);
}

function sharesOf(section: IniSection | undefined): string[] {
  read(section, [], [SHARE]);
  return list(section, SHARE, parseShare);
}

/** Values of a list, in the order of their numbers; each has to be what `check` takes. @throws IniError */
export function list(
  section: IniSection | undefined,
  { prefix }: List,
  check: (text: string) => unknown,
): string[] {
  const entries = [...(section?.values ?? [])].filter(([key]) => isListed(key, prefix));
  entries.sort(([a], [b]) => Number(a.slice(prefix.length)) - Number(b.slice(prefix.length)));
  for (const [key, value] of entries) {
    try {
      check(value);
    } catch (error) {
      throw section!.error(`'${key}': ${error instanceof Error ? error.message : 'wrong'}`, key);
    }
  }
  return entries.map(([, value]) => value);
}

const isListed = (key: string, prefix: string): boolean =>
  key.startsWith(prefix) && LISTED.test(key.slice(prefix.length));

/** A section's values by their properties; keys of `lists` are left out. @throws IniError */
export function read(
  section: IniSection | undefined,
  fields: readonly Field[],
  lists: readonly List[] = [],
): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [key, value] of section?.values ?? []) {
    if (lists.some(({ prefix }) => isListed(key, prefix))) continue;
    const found = fields.find((each) => each.key === key);
    if (found === undefined)
      throw section!.error(
        `there is no '${key}'; there are ${fields.map((each) => each.key).join(', ')}`,
        key,
      );
    try {
      values[found.property] = valueOf(found.kind, value);
    } catch (error) {
      throw section!.error(`'${key}' is ${error instanceof Error ? error.message : 'wrong'}`, key);
    }
  }
  return values;
}

/** What the schema has found, in terms of the file. */
function errorOf(
  issue: v.BaseIssue<unknown>,
  path: string,
  sectionOf: (top: string, index: number) => IniSection | undefined,
): IniError {
  const [top, second] = (issue.path ?? []).map(({ key }) => key);
  const last = issue.path?.at(-1)?.key;
  const section = sectionOf(String(top), Number(second));
  const key = [...VM, ...BOOT, ...DISK, ...NETWORK].find(({ property }) => property === last)?.key ?? '';
  const name = section?.name ?? String(top);
  if (issue.received === 'undefined') {
    const message = `[${name}] lacks '${key}'`;
    return section?.error(message) ?? new IniError(path, 1, message);
  }
  return section?.error(`'${key}': ${issue.message}`, key) ?? new IniError(path, 1, issue.message);
}

/** @throws Error that says what it is not */
function valueOf(kind: Kind, value: string): unknown {
  switch (kind) {
    case 'text':
      return value;
    case 'whole':
      if (!/^\d{1,9}$/.test(value)) throw new RangeError(`no whole number: '${value}'`);
      return Number(value);
    case 'number':
      return parseCpuTime(value);
    case 'switch':
      // The ini package gives `true` for a key without a value.
      if (value !== 'yes' && value !== 'no') throw new RangeError(`yes or no, not '${value}'`);
      return value === 'yes';
    case 'size':
      return parseSize(value);
  }
}

/** The whole file, each setting with what it is for. */
export function formatVmIni(settings: VmSettings, name: string): string {
  const sections = [
    section('vm', VM, settings.vm),
    section('boot', BOOT, settings.boot),
    ...settings.disks.map((disk, i) => section(`disk.${i}`, DISK, disk)),
    [
      section('network', NETWORK, settings.network).trimEnd(),
      ...listLines(CARD, settings.network.cards),
      ...listLines(PUBLISH, settings.network.publish),
      '',
    ].join('\n'),
    ['[shares]', ...listLines(SHARE, settings.shares), ''].join('\n'),
  ];
  return [`; The settings of the VM "${name}": they hold from its next start on.`, '', ...sections, ''].join(
    '\n',
  );
}

function section(name: string, fields: readonly Field[], values: Readonly<Record<string, unknown>>): string {
  const lines = fields.flatMap((each) => {
    const value = values[each.property];
    const head = `; ${each.about}`;
    return [head, value === undefined ? `;${each.key} =` : `${each.key} = ${safe(textOf(each.kind, value))}`];
  });
  return [`[${name}]`, ...lines, ''].join('\n');
}

function listLines({ prefix, about }: List, values: readonly string[]): string[] {
  const lines = values.map((value, i) => `${prefix}${i} = ${safe(value)}`);
  return [`; ${about}`, ...(lines.length === 0 ? [`;${prefix}0 =`] : lines)];
}

function textOf(kind: Kind, value: unknown): string {
  if (kind === 'switch') return value === true ? 'yes' : 'no';
  if (kind === 'size') return sizeText(Number(value));
  return String(value);
}

/** Exact, unlike a size for people. */
function sizeText(bytes: number): string {
  if (bytes % 2 ** 30 === 0) return `${bytes / 2 ** 30}G`;
  return bytes % MIB === 0 ? `${bytes / MIB}M` : `${bytes / 1024}K`;
}
