/**
 * The catalogue: which images there are, and where. `images/*.ini` of the package, and over that the user's own
 * settings in config.ini: `[image "NAME"]` changes an image of the catalogue or adds one, `[mirror]` has lines
 * `ADDRESS = ADDRESS` that lead what is below one address to another.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { packageRoot } from '../../kvm/package-root.ts';
import { parseIni, type IniError, type IniSection } from '../ini.ts';
import { digestOf, type Digest } from './checksums.ts';
import { systemCode } from '../../kvm/system-code.ts';
import { ImageError } from './errors.ts';
import { checkName } from './names.ts';

/** A file of a distributor. */
export type RemoteFile = {
  readonly url: string;
  /** as its distributor's list of checksums has it */
  readonly name: string;
  /** the checksum itself, or where the list with it is */
  readonly proof: Digest | { readonly list: string };
};

/** Whether a guest agent is in the image, or has to be installed in the guest. */
export type AgentSource = 'included' | 'install';

export type CatalogueEntry = {
  readonly name: string;
  /** other names of it */
  readonly aliases: readonly string[];
  readonly title: string;
  readonly format: 'qcow2' | 'raw';
  readonly disk: RemoteFile;
  /** where the distributor has it outside the image too */
  readonly kernel?: RemoteFile;
  readonly initrd?: RemoteFile;
  /** what its kernel needs to be told to find the root file system; without consoles */
  readonly cmdline?: string;
  /** the user that cloud-init makes by default */
  readonly user?: string;
  readonly agent: AgentSource;
};

export type Catalogue = {
  /** in the order of their names */
  readonly entries: readonly CatalogueEntry[];
};

/** What a section may have. */
const KEYS = [
  'aliases',
  'title',
  'base',
  'disk',
  'format',
  'checksums',
  'sha256',
  'sha512',
  'kernel',
  'initrd',
  'kernel-checksums',
  'cmdline',
  'user',
  'agent',
] as const;
type Key = (typeof KEYS)[number];

/** An image as it is written, with the section that each of its values is from. */
type Draft = Map<Key, { readonly value: string; readonly section: IniSection }>;

/**
 * @param config the user's settings; a file that is not there says nothing
 * @throws IniError that names the file and the line; ImageError where a name means two images
 */
export function loadCatalogue(config?: string, folder: string = join(packageRoot(), 'images')): Catalogue {
  const drafts = new Map<string, Draft>();
  for (const file of filesOf(folder)) {
    for (const section of parseIni(readFileSync(file, 'utf8'), file)) {
      if (section.name === '') refuseKeys(section);
      else addDraft(drafts, section.name, section);
    }
  }
  const mirrors = config === undefined ? [] : addUserConfig(drafts, config);
  const entries = [...drafts].map(([name, draft]) => entryOf(name, draft, mirrors));
  refuseDoubleNames(entries);
  return { entries: entries.sort((a, b) => (a.name < b.name ? -1 : 1)) };
}

/** @throws ImageError (ENOENT) that knows what names there are */
export function findEntry(catalogue: Catalogue, name: string): CatalogueEntry {
  checkName(name);
  const found = lookUp(catalogue, name);
  if (found !== undefined) return found;
  const names = catalogue.entries.flatMap((entry) => [entry.name, ...entry.aliases]);
  const [family] = name.split(/[:-]/, 1);
  const related = names.filter((other) => other.split(':', 1)[0] === family);
  throw new ImageError('ENOENT', `there is no image ${name} in the catalogue`, {
    hint:
      related.length > 0
        ? `there are ${related.join(', ')}`
        : '`tsvm image ls --all` lists the catalogue; `tsvm image import` takes a file',
  });
}

/** By its name, another name of it, or its name with `-` for `:`. */
export function lookUp({ entries }: Catalogue, name: string): CatalogueEntry | undefined {
  const isIt = (own: string): boolean => own === name || own.replace(':', '-') === name;
  return entries.find((entry) => isIt(entry.name)) ?? entries.find(({ aliases }) => aliases.some(isIt));
}

function filesOf(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith('.ini'))
    .sort()
    .map((name) => join(folder, name));
}

function addUserConfig(drafts: Map<string, Draft>, config: string): Mirror[] {
  let text: string;
  try {
    text = readFileSync(config, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
  const mirrors: Mirror[] = [];
  for (const section of parseIni(text, config)) {
    const name = /^image "([^"]*)"$/.exec(section.name)?.[1];
    if (name !== undefined) addDraft(drafts, name, section);
    else if (section.name === 'mirror') mirrors.push(...mirrorsOf(section));
  }
  // The longest says most.
  return mirrors.sort((a, b) => b.from.length - a.from.length);
}

function addDraft(drafts: Map<string, Draft>, name: string, section: IniSection): void {
  try {
    checkName(name);
  } catch (error) {
    throw section.error(error instanceof Error ? error.message : String(error));
  }
  const changed = drafts.get(name) ?? (section.values.has('disk') ? undefined : byAlias(drafts, name));
  const draft = changed ?? new Map<Key, { readonly value: string; readonly section: IniSection }>();
  if (changed === undefined) drafts.set(name, draft);
  for (const [key, value] of section.values) {
    const known = KEYS.find((each) => each === key);
    if (known === undefined)
      throw section.error(`${key} is no key of an image: those are ${KEYS.join(', ')}`, key);
    // Of another address, the old checksums say nothing.
    if (known === 'checksums') for (const old of ['sha256', 'sha512'] as const) draft.delete(old);
    if (known === 'sha256' || known === 'sha512') draft.delete('checksums');
    draft.set(known, { value, section });
  }
}

/** Who changes `ubuntu` means the image that has this for another name. */
function byAlias(drafts: ReadonlyMap<string, Draft>, alias: string): Draft | undefined {
  return [...drafts.values()].find((draft) => aliasesOf(draft.get('aliases')?.value).includes(alias));
}

function aliasesOf(text = ''): string[] {
  return text.split(/[\s,]+/).filter((alias) => alias !== '');
}

function refuseKeys(section: IniSection): void {
  const [key] = section.values.keys();
  if (key !== undefined) throw section.error(`${key} belongs to no image: a [NAME] has to be above it`, key);
}

type Mirror = { readonly from: string; readonly to: string };

function mirrorsOf(section: IniSection): Mirror[] {
  return [...section.values].map(([from, to]) => {
    const folder = (address: string): string => {
      const url = parseAddress(address, undefined, (message) => section.error(message, from));
      return url.endsWith('/') ? url : `${url}/`;
    };
    return { from: folder(from), to: folder(to) };
  });
}

function entryOf(name: string, draft: Draft, mirrors: readonly Mirror[]): CatalogueEntry {
  const [first] = draft.values();
  const error = (message: string, key?: Key): IniError | ImageError => {
    const section = (key === undefined ? undefined : draft.get(key)?.section) ?? first?.section;
    return (
      section?.error(message, key) ?? new ImageError('EINVAL', `the image ${name} in config.ini: ${message}`)
    );
  };
  const text = (key: Key): string | undefined => {
    const value = draft.get(key)?.value;
    if (value === undefined || value === '') return undefined;
    if (/\p{Cc}/u.test(value)) throw error(`${key} has a control character in it`, key);
    return value;
  };
  const address = (key: Key): string | undefined => {
    const value = text(key);
    if (value === undefined) return undefined;
    const url = parseAddress(value, text('base'), (message) => error(message, key));
    const mirror = mirrors.find(({ from }) => url.startsWith(from));
    return mirror === undefined ? url : mirror.to + url.slice(mirror.from.length);
  };
  const file = (key: 'disk' | 'kernel' | 'initrd', proof: RemoteFile['proof'] | undefined): RemoteFile => {
    const url = address(key);
    if (url === undefined) throw error(`${key} is missing`, key);
    if (proof === undefined) throw error(`${key} is without checksums: nothing would tell what came`, key);
    const fileName = decodeURIComponent(new URL(url).pathname.split('/').at(-1) ?? '');
    if (fileName === '') throw error(`${key} is the address of a folder`, key);
    return { url, name: fileName, proof };
  };
  const listOf = (key: Key): { readonly list: string } | undefined => {
    const list = address(key);
    return list === undefined ? undefined : { list };
  };
  const format = choice('format', text('format') ?? 'qcow2', ['qcow2', 'raw'], error);
  const disk = file('disk', pinned(text, error) ?? listOf('checksums'));
  const kernelProof = listOf('kernel-checksums') ?? listOf('checksums');
  const hasKernel = text('kernel') !== undefined;
  if (!hasKernel && text('initrd') !== undefined) throw error('there is an initrd, and no kernel', 'initrd');
  const [cmdline, user] = [text('cmdline'), text('user')];
  if (user !== undefined && !/^[a-z_][a-z0-9_-]{0,31}$/.test(user))
    throw error(`${user} cannot be the name of a user`, 'user');
  const aliases = aliasesOf(text('aliases'));
  for (const alias of aliases) {
    try {
      checkName(alias);
    } catch {
      throw error(`${alias} cannot be the name of an image`, 'aliases');
    }
  }
  return {
    name,
    aliases,
    title: text('title') ?? name,
    format,
    disk,
    ...(hasKernel && { kernel: file('kernel', kernelProof) }),
    ...(text('initrd') !== undefined && { initrd: file('initrd', kernelProof) }),
    ...(cmdline !== undefined && { cmdline }),
    ...(user !== undefined && { user }),
    agent: choice('agent', text('agent') ?? 'install', ['included', 'install'], error),
  };
}

type Fail = (message: string, key?: Key) => Error;

function pinned(text: (key: Key) => string | undefined, error: Fail): Digest | undefined {
  for (const key of ['sha512', 'sha256'] as const) {
    const hex = text(key);
    if (hex === undefined) continue;
    const digest = digestOf(hex);
    if (digest?.algorithm !== key) throw error(`this is no ${key} checksum`, key);
    return digest;
  }
  return undefined;
}

function choice<const Word extends string>(
  key: Key,
  value: string,
  words: readonly Word[],
  error: Fail,
): Word {
  const word = words.find((each) => each === value);
  if (word === undefined) throw error(`${key} is ${value}, and has to be one of ${words.join(', ')}`, key);
  return word;
}

function parseAddress(value: string, base: string | undefined, error: (message: string) => Error): string {
  const hasBase = base !== undefined && URL.canParse(base);
  if (!URL.canParse(value, hasBase ? base : undefined)) throw error(`${value} is no address`);
  const url = new URL(value, hasBase ? base : undefined);
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw error(`${value} is no address of http or https`);
  try {
    decodeURIComponent(url.pathname);
  } catch {
    throw error(`${value} is no address`);
  }
  return url.href;
}

/** What is an image's own name is that alone, whichever other one calls itself so too. */
function refuseDoubleNames(entries: readonly CatalogueEntry[]): void {
  const owners = new Map<string, string>();
  for (const { name, aliases } of entries) {
    for (const alias of new Set(aliases)) {
      const other = owners.get(alias);
      if (other !== undefined)
        throw new ImageError('EINVAL', `the name ${alias} means two images: ${other} and ${name}`);
      owners.set(alias, name);
    }
  }
}
