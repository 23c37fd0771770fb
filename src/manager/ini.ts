/** INI files as people write them: sections of keys, each with the line that it is on. */
import { parse } from 'ini';

/** A file that says what cannot be: which one, where, and why. */
export class IniError extends Error {
  override readonly name = 'IniError';
  readonly code = 'EINI';
  readonly file: string;
  /** 1 for the first */
  readonly line: number;

  constructor(file: string, line: number, message: string) {
    super(`${file}:${line}: ${message}`);
    this.file = file;
    this.line = line;
  }
}

export type IniSection = {
  /** as it is written between the brackets; empty for what is above the first of them */
  readonly name: string;
  readonly line: number;
  /** An error about one of its keys, or about all of it. */
  readonly error: (message: string, key?: string) => IniError;
  readonly values: ReadonlyMap<string, string>;
};

/** A file of settings is some KiB. */
const SIZE_LIMIT = 2 ** 20;
const SECTION_NAME_LIMIT = 256;

/**
 * @param file its name, for errors
 * @throws IniError on a line that is neither section, key nor comment, on a section or a key that is there twice, and
 * on a list (`key[]`)
 */
export function parseIni(text: string, file: string): readonly IniSection[] {
  if (text.length > SIZE_LIMIT) throw new IniError(file, 1, 'too large for a file of settings');
  const lines = linesOf(text, file);
  const values = flatten(parse(text), file);
  return [...values].map(([name, entries]) => {
    const line = lines.get(key(name)) ?? 1;
    return {
      name,
      line,
      values: entries,
      error: (message, of) =>
        new IniError(file, of === undefined ? line : (lines.get(key(name, of)) ?? line), message),
    };
  });
}

const key = (section: string, name?: string): string => JSON.stringify([section, name]);

/** The library tells no lines, leaves out what it does not understand, and lets the last of two win: that is seen here. */
function linesOf(text: string, file: string): Map<string, number> {
  const found = new Map<string, number>();
  const sections: (readonly [name: string, line: number])[] = [];
  let section = '';
  const note = (id: string, line: number, what: string): void => {
    const before = found.get(id);
    if (before !== undefined) throw new IniError(file, line, `${what} is there already, in line ${before}`);
    found.set(id, line);
  };
  text.split('\n').forEach((raw, at) => {
    const line = at + 1;
    const content = raw.replace(/\r$/, '');
    if (/[\0\r]/.test(content)) throw new IniError(file, line, 'a control character is in it');
    if (/^\s*([;#].*)?$/.test(content)) return;
    const heading = /^\[([^\]]*)\]\s*$/.exec(content);
    if (heading !== null) {
      section = (heading[1] ?? '').trim();
      if (section.length > SECTION_NAME_LIMIT || !isPlain(section))
        throw new IniError(file, line, 'this cannot be the name of a section');
      note(key(section), line, `[${section}]`);
      sections.push([section, line]);
      return;
    }
    const name = /^([^=[\]]+)=/.exec(content)?.[1];
    if (name === undefined)
      throw new IniError(file, line, 'this is no [section], no `key = value` and no comment (; or #)');
    if (!isPlain(name.trim())) throw new IniError(file, line, 'this cannot be the name of a key');
    note(key(section, name.trim()), line, name.trim());
  });
  for (const [name, line] of sections) {
    const parts = name.split('.');
    const hidden = parts.some((part, at) => found.has(key(parts.slice(0, at).join('.'), part)));
    if (hidden) throw new IniError(file, line, `[${name}] has the name of a key`);
  }
  return found;
}

/** Whether the library takes a name as it stands: not with comments, quotes and escapes, nor as what objects have. */
function isPlain(name: string): boolean {
  return name !== '' && !/^["']|[;#\\]|__proto__/.test(name);
}

/** The library takes a dot in the name of a section for one within another: names of versions have dots. */
function flatten(root: Record<string, unknown>, file: string): Map<string, Map<string, string>> {
  const sections = new Map<string, Map<string, string>>([['', new Map()]]);
  const left: (readonly [name: string, object: object])[] = [['', root]];
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const [name, object] = next;
    for (const [property, value] of Object.entries(object)) {
      if (typeof value === 'object' && value !== null) {
        // Those of the library have no prototype; JSON in single quotes has one.
        if (Object.getPrototypeOf(value) !== null)
          throw new IniError(file, 1, `the value of ${property} is neither text nor number`);
        left.push([name === '' ? property : `${name}.${property}`, value]);
      } else {
        const entries = sections.get(name) ?? new Map<string, string>();
        sections.set(name, entries);
        entries.set(property, String(value));
      }
    }
  }
  return sections;
}
