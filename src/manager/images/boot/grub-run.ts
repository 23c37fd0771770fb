/** Runs a grub.cfg as GRUB would, up to the menu, and then an entry of it. */
import { blsBoot, BLS_FOLDERS, readBls, type BlsEntry } from './bls.ts';
import { joinWords, type BootEntry } from './entry.ts';
import { parseGrubEnv } from './grub-env.ts';
import { parseGrub, type Command, type Script, type Word } from './grub-script.ts';
import { evaluateTest } from './grub-test.ts';
import { describePlace, isFile, textAt, type Place, type Volume } from './volumes.ts';

export type MenuEntry = {
  readonly title: string;
  readonly id: string;
} & (
  | { readonly kind: 'entry' | 'submenu'; readonly body: Script }
  | { readonly kind: 'bls'; readonly entry: BlsEntry }
);

const MAX_STEPS = 20_000;
const MAX_FILES = 20;
const MAX_VALUE = 16 * 1024;
const MAX_WORDS = 1000;
const MAX_MENU = 500;
/** What tells scripts that GRUB is not one of the old ones without these. */
const FEATURES = [
  'chainloader_bpb',
  'ntldr',
  'platform_search_hint',
  'default_font_path',
  'all_video_module',
  'menuentry_id',
  'menuentry_options',
  '200_final',
  'nativedisk_cmd',
  'timeout_style',
];

/** What GRUB notes for one start alone and takes back then: whoever only reads cannot do so. */
const PASSING = ['next_entry', 'prev_entry', 'initrdfail', 'recordfail'];

/** More than a configuration needs. */
export class GrubLimitError extends Error {
  override readonly name = 'GrubLimitError';
}

export class GrubRun {
  readonly env = new Map<string, string>();
  readonly config: Place;
  menu: MenuEntry[] = [];
  /** of the entry that was run last */
  #kernel: { place: Place; words: readonly string[] } | undefined;
  #initrds: Place[] = [];
  readonly #volumes: readonly Volume[];
  readonly #left = { steps: MAX_STEPS, files: MAX_FILES };

  /** @param config the file; its folder is GRUB's own */
  constructor(volumes: readonly Volume[], config: Place) {
    this.#volumes = volumes;
    this.config = config;
    const device = deviceOf(config.volume);
    this.env.set('root', device);
    this.env.set('prefix', `(${device})${config.path.slice(0, config.path.lastIndexOf('/'))}`);
    this.env.set('grub_platform', 'pc');
    this.env.set('grub_cpu', 'i386');
    // Ubuntu's images try without an initrd first, and with it once GRUB has noted that this has failed: nobody will
    // note that here.
    this.env.set('initrdfail', '1');
    for (const feature of FEATURES) this.env.set(`feature_${feature}`, 'y');
  }

  /** Up to the menu. @throws GrubSyntaxError, GrubLimitError */
  async runConfig(): Promise<void> {
    await this.#runFile(this.config);
  }

  /** What an entry would boot; undefined where that is no Linux. */
  async boot(entry: MenuEntry): Promise<BootEntry | undefined> {
    if (entry.kind === 'bls') return blsBoot(entry.entry, 'GRUB', (text) => this.#expandText(text));
    this.#kernel = undefined;
    this.#initrds = [];
    await this.#run(entry.body);
    // TypeScript does not see that it was set meanwhile.
    const kernel = this.#kernel as { place: Place; words: readonly string[] } | undefined;
    if (kernel === undefined) return undefined;
    return {
      title: entry.title,
      source: `GRUB, ${describePlace(this.config)}`,
      kernel: kernel.place,
      initrds: this.#initrds,
      commandLine: joinWords(kernel.words),
    };
  }

  /** The entries below a submenu. */
  async open(entry: MenuEntry): Promise<MenuEntry[]> {
    if (entry.kind !== 'submenu') return [];
    const outer = this.menu;
    this.menu = [];
    await this.#run(entry.body);
    const inner = this.menu;
    this.menu = outer;
    return inner;
  }

  /** @returns whether the last command succeeded, as conditions ask */
  async #run(script: Script): Promise<boolean> {
    let status = true;
    for (const command of script) status = await this.#command(command);
    return status;
  }

  async #command(command: Command): Promise<boolean> {
    if (--this.#left.steps < 0) throw new GrubLimitError('it runs too many commands');
    if (command.kind === 'if') {
      for (const { condition, body } of command.branches)
        if (await this.#run(condition)) return this.#run(body);
      return this.#run(command.otherwise);
    }
    const [name, ...args] = this.#expandAll(command.words);
    if (name === undefined) return true;
    const assigned = /^([A-Za-z_]\w*)=([^]*)$/.exec(name);
    if (assigned !== null && args.length === 0) this.#set(assigned[1]!, assigned[2]!);
    return this.#execute(name, args, command.block);
  }

  async #execute(name: string, args: readonly string[], block: Script | undefined): Promise<boolean> {
    switch (name) {
      case 'set':
        for (const arg of args) this.#set(...splitOnce(arg, '='));
        return true;
      case 'unset':
        for (const arg of args) this.env.delete(arg);
        return true;
      case 'false':
        return false;
      // No fonts and no keys: what asks for them wants graphics, or a person.
      case 'loadfont':
      case 'keystatus':
        return false;
      case '[':
      case 'test':
        return evaluateTest(name === '[' ? args.slice(0, -1) : args, async (path) => {
          const place = this.#place(path);
          return place !== undefined && (await isFile(place));
        });
      case 'load_env':
        return this.#loadEnv(args);
      case 'configfile':
      case 'source':
      case '.':
      case 'extract_entries_configfile':
        return this.#source(args[0] ?? '');
      case 'search':
      case 'search.fs_uuid':
      case 'search.fs_label':
      case 'search.file':
        return this.#search(name, args);
      case 'menuentry':
      case 'submenu':
        this.#addEntry(name === 'menuentry' ? 'entry' : 'submenu', args, block ?? []);
        return true;
      case 'blscfg':
        return this.#addBls();
      case 'linux':
      case 'linux16':
      case 'linuxefi': {
        const place = this.#place(args[0] ?? '');
        this.#initrds = [];
        this.#kernel = place && { place, words: args.slice(1).map(quoteSpaces) };
        return place !== undefined;
      }
      case 'initrd':
      case 'initrd16':
      case 'initrdefi':
        for (const arg of args) {
          const place = this.#place(arg);
          if (place !== undefined) this.#initrds.push(place);
        }
        return true;
      default:
        // Modules, video modes, terminals, functions: they succeed.
        return true;
    }
  }

  #expandText(text: string): string {
    let length = 0;
    return text.replaceAll(/\$(?:\{(\w+)\}|(\w+))/g, (_, braced?: string, plain?: string) => {
      const value = this.#value(braced ?? plain ?? '');
      length += value.length;
      if (length > MAX_VALUE) throw new GrubLimitError('it has an entry that is too long');
      return value;
    });
  }

  #expandAll(words: readonly Word[]): string[] {
    const all: string[] = [];
    for (const word of words) {
      all.push(...this.#expand(word));
      if (all.length > MAX_WORDS) throw new GrubLimitError('it has a command of too many words');
    }
    return all;
  }

  /** Several words, where variables that are not quoted have spaces in them. */
  #expand(word: Word): string[] {
    const words: string[] = [];
    let current: string | undefined;
    for (const piece of word) {
      if ('text' in piece) current = (current ?? '') + piece.text;
      else if (piece.isQuoted) current = (current ?? '') + this.#value(piece.variable);
      else {
        const [first = '', ...rest] = this.#value(piece.variable).split(/\s+/);
        if (first !== '' || current !== undefined) current = (current ?? '') + first;
        for (const next of rest) {
          if (current !== undefined && current !== '') words.push(current);
          current = next;
        }
      }
    }
    if (current !== undefined) words.push(current);
    if (words.some((each) => each.length > MAX_VALUE))
      throw new GrubLimitError('it has a word that is too long');
    return words;
  }

  #value(name: string): string {
    return this.env.get(name) ?? '';
  }

  #set(name: string, value: string): void {
    if (this.env.size < 1000 || this.env.has(name)) this.env.set(name, value);
  }

  /** Of `(hd0,gpt1)/path`, and of a path on the device that is GRUB's root. */
  #place(path: string): Place | undefined {
    const [, device = this.#value('root'), rest = ''] = /^(?:\(([^)]*)\))?([^]*)$/.exec(path) ?? [];
    const volume = volumeOf(this.#volumes, device);
    return volume && { volume, path: rest };
  }

  async #runFile(place: Place): Promise<boolean> {
    if (this.#left.files-- <= 0) throw new GrubLimitError('it reads too many files');
    const text = await textAt(place);
    if (text === undefined) return false;
    return this.#run(parseGrub(text));
  }

  async #source(path: string): Promise<boolean> {
    const place = this.#place(path);
    return place !== undefined && this.#runFile(place);
  }

  async #loadEnv(args: readonly string[]): Promise<boolean> {
    const options = ['--skip-sig', '-s'];
    const named = /^(?:-f|--file)$/.test(args[0] ?? '') ? args.slice(1) : args;
    const joined = args.find((arg) => arg.startsWith('--file='))?.slice(7);
    const isNamed = joined !== undefined || named !== args;
    const place = this.#place(joined ?? (isNamed ? named[0]! : `${this.#value('prefix')}/grubenv`));
    const wanted = (joined === undefined && isNamed ? named.slice(1) : args).filter(
      (arg) => !arg.startsWith('--file=') && !options.includes(arg),
    );
    const values = parseGrubEnv((place && (await textAt(place))) ?? '');
    for (const name of PASSING) values.delete(name);
    for (const [name, value] of values)
      if (wanted.length === 0 || wanted.includes(name)) this.#set(name, value);
    return true;
  }

  async #search(command: string, args: readonly string[]): Promise<boolean> {
    let by = command.includes('.') ? command.slice(command.indexOf('.') + 1) : 'file';
    let variable = command.includes('.') ? (args[1] ?? 'root') : 'root';
    let value: string | undefined;
    for (let i = 0; i < args.length; i++) {
      const arg = args[i]!;
      if (/^(--fs-uuid|-u)$/.test(arg)) by = 'fs_uuid';
      else if (/^(--label|-l|--fs-label)$/.test(arg)) by = 'fs_label';
      else if (/^(--file|-f)$/.test(arg)) by = 'file';
      else if (arg.startsWith('--set=')) variable = arg.slice(6);
      else if (arg === '--set' || arg === '-s') {
        // Its name may be left out.
        if (/^[a-z_]\w*$/i.test(args[i + 1] ?? '') && i + 2 < args.length) variable = args[++i]!;
      } else if (arg === '--hint' || arg === '-h') i++;
      else if (!arg.startsWith('-')) value ??= arg;
    }
    const found = await this.#find(by, value ?? '');
    if (found !== undefined) this.#set(variable, deviceOf(found));
    return found !== undefined;
  }

  async #find(by: string, value: string): Promise<Volume | undefined> {
    if (value === '') return undefined;
    if (by === 'fs_uuid')
      return this.#volumes.find(({ fs }) => fs.uuid.toLowerCase() === value.toLowerCase());
    if (by === 'fs_label') return this.#volumes.find(({ fs }) => fs.label === value);
    for (const volume of this.#volumes) if (await isFile({ volume, path: value })) return volume;
    return undefined;
  }

  #addEntry(kind: 'entry' | 'submenu', args: readonly string[], body: Script): void {
    let title: string | undefined;
    let id: string | undefined;
    for (let i = 0; i < args.length; i++) {
      const arg = args[i]!;
      if (arg === '--id') id = args[++i];
      else if (arg.startsWith('--id=')) id = arg.slice(5);
      else if (/^--(class|users|hotkey|source)$/.test(arg)) i++;
      else if (!arg.startsWith('--')) title ??= arg;
    }
    this.#add({ kind, title: title ?? '', id: id ?? title ?? '', body });
  }

  async #addBls(): Promise<boolean> {
    const root = volumeOf(this.#volumes, this.#value('boot') || this.#value('root'));
    const volumes = [
      ...new Set([...(root === undefined ? [] : [root]), this.config.volume, ...this.#volumes]),
    ];
    const own = this.#value('blsdir');
    for (const volume of volumes) {
      for (const folder of own === '' ? BLS_FOLDERS : [own, ...BLS_FOLDERS]) {
        const entries = await readBls(volume, folder);
        for (const entry of entries)
          this.#add({ kind: 'bls', title: entry.values.get('title')?.[0] ?? entry.id, id: entry.id, entry });
        if (entries.length > 0) return true;
      }
    }
    return false;
  }

  #add(entry: MenuEntry): void {
    if (this.menu.length >= MAX_MENU) throw new GrubLimitError('its menu is too long');
    this.menu.push(entry);
  }
}

/** As GRUB calls partitions of the first disk; there is no other one. */
function deviceOf({ partition }: Volume): string {
  if (partition.number === 0) return 'hd0';
  return `hd0,${partition.type.startsWith('0x') ? 'msdos' : 'gpt'}${partition.number}`;
}

function volumeOf(volumes: readonly Volume[], device: string): Volume | undefined {
  const match = /^hd\d+(?:,(?:gpt|msdos)?(\d+))?$/.exec(device);
  if (match === null) return undefined;
  return volumes.find(({ partition }) => partition.number === Number(match[1] ?? 0));
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

/** As GRUB hands a parameter with spaces in it to the kernel. */
const quoteSpaces = (word: string): string => (/\s/.test(word) ? `"${word}"` : word);
