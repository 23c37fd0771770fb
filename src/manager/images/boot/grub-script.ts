/**
 * The language of grub.cfg, as far as grub-mkconfig and those who write the file by hand use it: commands, `if`, menu
 * entries. Functions and loops are read and left out. (GNU GRUB manual, "Shell-like scripting")
 */

/** A piece of a word: text, or a variable. What is not quoted is split at spaces once the variable has its value. */
export type Piece = { readonly text: string } | { readonly variable: string; readonly isQuoted: boolean };
export type Word = readonly Piece[];

export type Command =
  | {
      readonly kind: 'simple';
      readonly words: readonly Word[];
      /** in braces at its end: the body of a menu entry */
      readonly block: Script | undefined;
    }
  | {
      readonly kind: 'if';
      readonly branches: readonly { readonly condition: Script; readonly body: Script }[];
      readonly otherwise: Script;
    };
export type Script = readonly Command[];

export class GrubSyntaxError extends Error {
  override readonly name = 'GrubSyntaxError';
}

type Token =
  | { readonly kind: 'word'; readonly word: Word; readonly bare: string | undefined }
  | { readonly kind: 'end' };

const MAX_DEPTH = 50;
const END: Token = { kind: 'end' };

/** @throws GrubSyntaxError */
export function parseGrub(text: string): Script {
  const parser = new Parser([...tokens(text)]);
  return parser.all();
}

/** Words, and the ends of commands. */
function* tokens(text: string): Generator<Token> {
  for (let at = 0; at < text.length;) {
    const character = text[at]!;
    if (character === '\n' || character === ';') {
      yield END;
      at++;
    } else if (character === '#') {
      const end = text.indexOf('\n', at);
      at = end < 0 ? text.length : end;
    } else if (/\s/.test(character)) at++;
    else if (text.startsWith('\\\n', at)) at += 2;
    else if (character === '{' || character === '}') {
      yield { kind: 'word', word: [{ text: character }], bare: character };
      at++;
    } else {
      const { word, bare, end } = wordAt(text, at);
      yield { kind: 'word', word, bare };
      at = end;
    }
  }
  yield END;
}

const VARIABLE = /\$(?:\{([^}\s]*)\}|([A-Za-z_]\w*|[0-9]+|[?#@*]))/y;

/** `bare`: its text where nothing in it is quoted or a variable, as it is with keywords. */
function wordAt(text: string, start: number): { word: Word; bare: string | undefined; end: number } {
  const pieces: Piece[] = [];
  let plain = '';
  let isBare = true;
  let quote: '' | "'" | '"' = '';
  let at = start;
  const flush = (): void => {
    if (plain !== '') pieces.push({ text: plain });
    plain = '';
  };
  for (; at < text.length; at++) {
    const character = text[at]!;
    if (quote === "'") {
      if (character === "'") quote = '';
      else plain += character;
    } else if (character === '\\') {
      const next = text[++at] ?? '';
      isBare = false;
      // Between double quotes a backslash stands for itself before all but these.
      if (quote === '"' && !'$"\\\n'.includes(next)) plain += '\\';
      if (next !== '\n') plain += next;
    } else if (character === '$') {
      VARIABLE.lastIndex = at;
      const match = VARIABLE.exec(text);
      if (match === null) plain += character;
      else {
        flush();
        pieces.push({ variable: match[1] ?? match[2]!, isQuoted: quote === '"' });
        isBare = false;
        at = VARIABLE.lastIndex - 1;
      }
    } else if (quote === '"') {
      if (character === '"') quote = '';
      else plain += character;
    } else if (character === "'" || character === '"') {
      quote = character;
      isBare = false;
      // '' is a word too.
      flush();
      pieces.push({ text: '' });
    } else if (/[\s;{}]/.test(character)) break;
    else plain += character;
  }
  if (quote !== '') throw new GrubSyntaxError('a quote has no end');
  const bare = isBare ? plain : undefined;
  flush();
  return { word: pieces, bare, end: at };
}

const CLOSING = ['}', 'fi', 'then', 'else', 'elif', 'do', 'done'];

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  all(): Script {
    const script = this.#script();
    if (this.#at < this.#tokens.length) throw new GrubSyntaxError(`unexpected ${this.#bare() ?? 'word'}`);
    return script;
  }

  #bare(): string | undefined {
    const token = this.#tokens[this.#at];
    return token?.kind === 'word' ? token.bare : undefined;
  }

  /** Commands up to one of the words that close something. */
  #script(): Script {
    if (++this.#depth > MAX_DEPTH) throw new GrubSyntaxError('too many commands within each other');
    const commands: Command[] = [];
    while (this.#at < this.#tokens.length) {
      if (this.#tokens[this.#at]!.kind === 'end') {
        this.#at++;
        continue;
      }
      const bare = this.#bare();
      if (bare !== undefined && CLOSING.includes(bare)) break;
      const command = this.#command();
      if (command !== undefined) commands.push(command);
    }
    this.#depth--;
    return commands;
  }

  #expect(...words: readonly string[]): string {
    const bare = this.#bare();
    if (bare === undefined || !words.includes(bare))
      throw new GrubSyntaxError(`${words.join(' or ')} is missing`);
    this.#at++;
    return bare;
  }

  /** Undefined for what is left out. */
  #command(): Command | undefined {
    switch (this.#bare()) {
      case 'if':
        return this.#if();
      case 'function':
        this.#at += 2;
        this.#skipEnds();
        this.#expect('{');
        this.#script();
        this.#expect('}');
        return undefined;
      case 'while':
      case 'until':
      case 'for':
        this.#at++;
        this.#script();
        this.#expect('do');
        this.#script();
        this.#expect('done');
        return undefined;
      default:
        return this.#simple();
    }
  }

  #if(): Command {
    const branches: { condition: Script; body: Script }[] = [];
    let otherwise: Script = [];
    for (let word = this.#expect('if'); word !== 'fi'; word = this.#expect('elif', 'else', 'fi')) {
      if (word === 'else') {
        otherwise = this.#script();
        this.#expect('fi');
        break;
      }
      const condition = this.#script();
      this.#expect('then');
      branches.push({ condition, body: this.#script() });
    }
    return { kind: 'if', branches, otherwise };
  }

  #simple(): Command {
    const words: Word[] = [];
    let block: Script | undefined;
    for (let token = this.#tokens[this.#at]; token?.kind === 'word'; token = this.#tokens[this.#at]) {
      if (token.bare === '}') break;
      this.#at++;
      if (token.bare === '{') {
        block = this.#script();
        this.#expect('}');
        break;
      }
      words.push(token.word);
    }
    return { kind: 'simple', words, block };
  }

  #skipEnds(): void {
    while (this.#tokens[this.#at]?.kind === 'end') this.#at++;
  }
}
