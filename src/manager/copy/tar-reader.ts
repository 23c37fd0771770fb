import { Header, Pax, type HeaderData } from 'tar';

const BLOCK = 512;
/** of a name or an extended header, in bytes */
const NAME_LIMIT = 64 * 1024;
/** What may follow the end: archives are filled up to their record size. */
const TRAILER_LIMIT = 1024 * 1024;
/** the latest time that is taken over, in seconds since 1970 */
const LAST_TIME = 2 ** 40;

/** Bytes that are no tar archive. `cut`: they end before the archive does. */
export class TarError extends Error {
  override readonly name = 'TarError';
  readonly cut: boolean;

  constructor(message: string, cut = false) {
    super(message);
    this.cut = cut;
  }
}

export type TarEntry = {
  readonly type: 'file' | 'folder' | 'symlink' | 'link' | 'other';
  /** as it is in the archive: nothing is known of where it leads */
  readonly path: string;
  readonly target: string;
  /** permissions and set-id bits */
  readonly mode: number;
  /** seconds since 1970 */
  readonly mtime: number;
  readonly size: number;
  /** to be read before the next entry is asked for; what is not read is passed over */
  readonly content: AsyncIterable<Buffer>;
};

const TYPES: Readonly<Partial<Record<Header['type'], TarEntry['type']>>> = {
  File: 'file',
  OldFile: 'file',
  ContiguousFile: 'file',
  Directory: 'folder',
  SymbolicLink: 'symlink',
  Link: 'link',
};

/**
 * Entries of a tar archive (ustar, GNU and pax) as they come, with no more of it in memory than a piece of `input`.
 * @throws TarError
 */
export async function* readTar(input: AsyncIterable<Buffer>): AsyncGenerator<TarEntry> {
  const source = new Source(input);
  let next: HeaderData = {};
  for (;;) {
    const header = new Header(await source.read(BLOCK), 0, next);
    if (header.nullBlock) {
      await source.finish(TRAILER_LIMIT);
      return;
    }
    if (!header.cksumValid) throw new TarError('this is no tar archive: a checksum is wrong');
    const { type, size = 0 } = header;
    if (!Number.isSafeInteger(size) || size < 0) throw new TarError(`an entry has ${size} bytes`);
    const padding = (BLOCK - (size % BLOCK)) % BLOCK;
    const text = async (): Promise<string> => {
      if (size > NAME_LIMIT) throw new TarError(`a header has ${size} bytes`);
      const bytes = await source.read(size + padding);
      return bytes.toString('utf8', 0, size);
    };
    switch (type) {
      case 'ExtendedHeader':
        next = Pax.parse(await text(), next);
        break;
      case 'GlobalExtendedHeader':
        await text();
        break;
      case 'NextFileHasLongPath':
      case 'OldGnuLongPath':
        next = { ...next, path: untilZero(await text()) };
        break;
      case 'NextFileHasLongLinkpath':
        next = { ...next, linkpath: untilZero(await text()) };
        break;
      default: {
        const path = next.path ?? header.path ?? '';
        const linkpath = next.linkpath ?? header.linkpath ?? '';
        let left = size;
        const content = async function* (): AsyncGenerator<Buffer> {
          while (left > 0) {
            const piece = await source.piece(left);
            left -= piece.length;
            yield piece;
          }
        };
        yield {
          type: TYPES[type] ?? 'other',
          path,
          target: linkpath,
          mode: (header.mode ?? 0) & 0o7777,
          mtime: timeOf(header.mtime),
          size,
          content: { [Symbol.asyncIterator]: content },
        };
        while (left > 0) left -= (await source.piece(left)).length;
        if (padding > 0) await source.read(padding);
        next = {};
      }
    }
  }
}

const untilZero = (text: string): string => text.replace(/\0[^]*$/, '');

function timeOf(date: Date | undefined): number {
  const seconds = (date?.getTime() ?? 0) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), LAST_TIME) : 0;
}

/** Bytes of a stream in the pieces that are asked for. */
class Source {
  readonly #iterator: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(input: AsyncIterable<Buffer>) {
    this.#iterator = input[Symbol.asyncIterator]();
  }

  /** Exactly so many bytes. */
  async read(length: number): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for (let left = length; left > 0;) {
      const piece = await this.piece(left);
      pieces.push(piece);
      left -= piece.length;
    }
    return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
  }

  /** What there is, at least a byte and at most `limit` of them. */
  async piece(limit: number): Promise<Buffer> {
    if (!(await this.#fill())) throw new TarError('the archive is cut off', true);
    const piece = this.#rest.subarray(0, limit);
    this.#rest = this.#rest.subarray(piece.length);
    return piece;
  }

  /** Reads to the end, which has to come within so many bytes. */
  async finish(limit: number): Promise<void> {
    let length = 0;
    while (await this.#fill()) {
      length += this.#rest.length;
      if (length > limit) throw new TarError('the archive goes on after its end');
      this.#rest = Buffer.alloc(0);
    }
  }

  async #fill(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const next = await this.#iterator.next();
      if (next.done === true) return false;
      this.#rest = next.value;
    }
    return true;
  }
}
