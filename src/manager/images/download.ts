/**
 * Downloads that go on where they stopped: within the process after a cut connection, and in a later one from the
 * `.part` file that was left. What counts is the checksum in the end.
 */
import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readFile, rm, statfs, writeFile, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import type { Digest } from './checksums.ts';
import { systemCode } from '../../kvm/system-code.ts';
import { ImageError } from './errors.ts';
import { discard, networkError, shown, statusError, type HttpClient, type HttpResponse } from './http.ts';

/** How far a download has come. */
export type DownloadProgress = {
  /** of the file that are here */
  readonly bytes: number;
  /** of the file; undefined where the server does not tell */
  readonly total: number | undefined;
  /** bytes a second, over the last seconds */
  readonly rate: number;
};

export type DownloadOptions = {
  readonly onProgress?: (progress: DownloadProgress) => void;
  /** ends it; what came is kept */
  readonly signal?: AbortSignal;
  /** attempts without a byte, one after the other, before it is given up; default 6 */
  readonly attempts?: number;
  /** milliseconds before the second attempt, and twice as many before each further one; default 500 */
  readonly backOff?: number;
  /** largest file that is taken, in bytes; default 64 GiB */
  readonly limit?: number;
};

const ATTEMPTS = 6;
/** from the beginning, after pieces did not fit together */
const RESTARTS = 2;
const BACK_OFF_MS = 500;
const LONGEST_BACK_OFF_MS = 15_000;
const LONGEST_RETRY_AFTER_MS = 60_000;
const SIZE_LIMIT = 64 * 2 ** 30;
const READ_SIZE = 2 ** 20;

/** A try that failed and may work when it is done again. */
class Interrupted extends Error {
  readonly why: ImageError;
  /** what the server asks to wait, in milliseconds */
  readonly retryAfter: number;

  constructor(why: ImageError, retryAfter = 0) {
    super(why.message);
    this.why = why;
    this.retryAfter = retryAfter;
  }
}

/**
 * Brings a file into `part`, which may hold the beginning of it. On return all of it is there, on stable storage, and
 * is what the checksum says. Only one at a time may use `part`.
 * @throws ImageError: ENETWORK, EHTTP and ENOSPC leave what came, to go on with; ECHECKSUM leaves nothing
 */
export async function download(
  client: HttpClient,
  source: { readonly url: string; readonly digest: Digest },
  part: string,
  options: DownloadOptions = {},
): Promise<void> {
  const file = await open(part, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    await new Download(client, source, part, file, options).run();
    await file.sync();
  } catch (error) {
    throw writeError(part, error);
  } finally {
    await file.close();
  }
  await rm(statePath(part), { force: true });
}

/** What the `.part` file alone does not tell. */
type PartState = {
  /** whose tag it is */
  readonly host?: string;
  /** what If-Range takes: a strong entity tag, else a date (RFC 9110, 13.1.5) */
  readonly tag?: string;
  readonly total?: number;
};

const statePath = (part: string): string => `${part}.json`;

/** @returns nothing of a file that is not there or damaged: then only the checksum tells whether the parts fit */
export async function readPartState(part: string): Promise<PartState> {
  try {
    const state: unknown = JSON.parse(await readFile(statePath(part), 'utf8'));
    if (typeof state !== 'object' || state === null) return {};
    const text = (name: string): string | undefined => {
      const value: unknown = Reflect.get(state, name);
      return typeof value === 'string' && value.length < 1000 && !/[^ -~]/.test(value) ? value : undefined;
    };
    const [host, tag, total] = [text('host'), text('tag'), Reflect.get(state, 'total') as unknown];
    return {
      ...(host !== undefined && { host }),
      ...(tag !== undefined && { tag }),
      ...(typeof total === 'number' && Number.isSafeInteger(total) && total >= 0 && { total }),
    };
  } catch {
    return {};
  }
}

class Download {
  readonly #client: HttpClient;
  readonly #url: string;
  readonly #digest: Digest;
  readonly #part: string;
  readonly #file: FileHandle;
  readonly #options: DownloadOptions;
  readonly #limit: number;
  readonly #rate = new Rate();
  #hash: Hash;
  /** bytes in the file, all of which are in the hash */
  #have = 0;
  #state: PartState = {};
  /** whether what is in the file came in more than one response */
  #pieced = false;

  constructor(
    client: HttpClient,
    { url, digest }: { readonly url: string; readonly digest: Digest },
    part: string,
    file: FileHandle,
    options: DownloadOptions,
  ) {
    this.#client = client;
    this.#url = url;
    this.#digest = digest;
    this.#part = part;
    this.#file = file;
    this.#options = options;
    this.#limit = options.limit ?? SIZE_LIMIT;
    this.#hash = createHash(digest.algorithm);
  }

  async run(): Promise<void> {
    this.#state = await readPartState(this.#part);
    await this.#hashWhatIsThere();
    if (this.#have > 0 && this.#isRight()) return;
    for (let restarts = 0; ; restarts++) {
      await this.#fetch();
      if (this.#isRight()) return;
      const got = this.#hash.copy().digest('hex');
      // Pieces of different files do not fit together; one file as it came is as the server has it.
      const again = this.#pieced && restarts < RESTARTS;
      await this.#startOver();
      if (again) continue;
      await rm(this.#part, { force: true });
      await rm(statePath(this.#part), { force: true });
      const { algorithm, hex } = this.#digest;
      throw new ImageError(
        'ECHECKSUM',
        `${shown(this.#url)} has the wrong checksum (${algorithm}): expected ${hex}, got ${got}`,
        {
          hint: 'nothing of it is kept; a mirror that is being updated has it right later, else do not trust the source',
        },
      );
    }
  }

  async #hashWhatIsThere(): Promise<void> {
    const buffer = Buffer.alloc(READ_SIZE);
    for (;;) {
      this.#options.signal?.throwIfAborted();
      const { bytesRead } = await this.#file.read(buffer, 0, buffer.length, this.#have);
      if (bytesRead === 0) break;
      this.#hash.update(buffer.subarray(0, bytesRead));
      this.#have += bytesRead;
    }
    this.#pieced = this.#have > 0;
  }

  #isRight(): boolean {
    return this.#hash.copy().digest('hex') === this.#digest.hex;
  }

  async #startOver(): Promise<void> {
    await this.#file.truncate(0);
    this.#hash = createHash(this.#digest.algorithm);
    this.#have = 0;
    this.#pieced = false;
    this.#state = {};
  }

  /** Until the file is as long as it is to be. */
  async #fetch(): Promise<void> {
    const { attempts = ATTEMPTS, backOff = BACK_OFF_MS, signal } = this.#options;
    for (let failures = 0; ;) {
      const before = this.#have;
      try {
        return await this.#attempt();
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof Interrupted)) throw error;
        failures = this.#have > before ? 1 : failures + 1;
        if (failures >= attempts) throw error.why;
        const wait = Math.min(LONGEST_BACK_OFF_MS, backOff * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
        await delay(Math.max(wait, error.retryAfter), undefined, signal === undefined ? {} : { signal });
      }
    }
  }

  async #attempt(): Promise<void> {
    const response = await this.#open();
    const { status, body, url } = response;
    try {
      if (status === 200) {
        if (this.#have > 0) await this.#startOver();
        const length = Number(response.header('content-length') ?? NaN);
        await this.#begin(response, Number.isSafeInteger(length) && length >= 0 ? length : undefined);
      } else if (status === 206) {
        const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.header('content-range') ?? '');
        const total = Number(range?.[2] ?? NaN);
        if (range === null || Number(range[1]) !== this.#have) {
          await this.#startOver();
          throw new Interrupted(new ImageError('EHTTP', `${shown(url)}: the server sent another part of it`));
        }
        this.#pieced = true;
        await this.#begin(response, Number.isSafeInteger(total) ? total : undefined);
      } else if (status === 416 && this.#have > 0) {
        // What is there is longer than the file, or all of it and wrong.
        await this.#startOver();
        throw new Interrupted(statusError(url, status));
      } else {
        throw refusal(response);
      }
      await this.#receive(response);
    } finally {
      discard(body);
    }
  }

  async #open(): Promise<HttpResponse> {
    const { signal } = this.#options;
    const { host: known, tag } = this.#state;
    const headers = (host: string): Record<string, string> => {
      if (this.#have === 0) return {};
      const range = { range: `bytes=${this.#have}-` };
      // The tags of one mirror mean nothing to another.
      return tag !== undefined && host === known ? { ...range, 'if-range': tag } : range;
    };
    try {
      return await this.#client.get(this.#url, { headers, allowPlain: true, ...(signal && { signal }) });
    } catch (error) {
      if (error instanceof ImageError && error.code === 'ENETWORK') throw new Interrupted(error);
      throw error;
    }
  }

  /** The server has told what comes. */
  async #begin({ url, header }: HttpResponse, total: number | undefined): Promise<void> {
    if (total !== undefined && total > this.#limit) throw this.#tooLarge(url);
    const etag = header('etag');
    const tag = etag !== undefined && !etag.startsWith('W/') ? etag : header('last-modified');
    this.#state = {
      host: url.host,
      ...(tag !== undefined && { tag }),
      ...(total !== undefined && { total }),
    };
    await writeFile(statePath(this.#part), JSON.stringify(this.#state), { mode: 0o600 });
    if (total === undefined) return;
    const { bavail, bsize } = await statfs(dirname(this.#part));
    const missing = total - this.#have;
    // A file system that tells nothing says 0 of everything.
    if (bavail > 0 && missing > bavail * bsize) throw noSpace(this.#part, missing);
  }

  async #receive({ body, url }: HttpResponse): Promise<void> {
    const { onProgress, signal } = this.#options;
    const { total } = this.#state;
    const chunks = (body as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
    for (;;) {
      let next: IteratorResult<Buffer, unknown>;
      try {
        next = await chunks.next();
      } catch (error) {
        signal?.throwIfAborted();
        throw new Interrupted(networkError(url, error));
      }
      if (next.done === true) break;
      const chunk = next.value;
      if (this.#have + chunk.length > Math.min(this.#limit, total ?? Infinity)) throw this.#tooLarge(url);
      for (let at = 0; at < chunk.length;) {
        at += (await this.#file.write(chunk, at, chunk.length - at, this.#have + at)).bytesWritten;
      }
      this.#hash.update(chunk);
      this.#have += chunk.length;
      onProgress?.({ bytes: this.#have, total, rate: this.#rate.of(this.#have) });
    }
    if (total !== undefined && this.#have < total) {
      throw new Interrupted(
        new ImageError('ENETWORK', `${shown(url)}: the server sent ${this.#have} of ${total} bytes`),
      );
    }
  }

  #tooLarge(url: URL): ImageError {
    return new ImageError('EHTTP', `${shown(url)}: the server sends more than it may`);
  }
}

/** Servers that are busy or broken for a while are asked again; what is not there will not be. */
function refusal({ status, header, url }: HttpResponse): Error {
  const error = statusError(url, status);
  if (status < 500 && status !== 408 && status !== 429) return error;
  const after = header('retry-after') ?? '';
  const seconds = /^\d{1,9}$/.test(after) ? Number(after) * 1000 : 0;
  return new Interrupted(error, Math.min(seconds, LONGEST_RETRY_AFTER_MS));
}

function writeError(part: string, error: unknown): unknown {
  if (error instanceof ImageError) return error;
  const code = systemCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') return noSpace(part, undefined, error);
  return error;
}

function noSpace(part: string, missing: number | undefined, cause?: unknown): ImageError {
  const much = missing === undefined ? '' : `: ${Math.ceil(missing / 2 ** 20)} MiB more are needed`;
  return new ImageError('ENOSPC', `no space is left in ${dirname(part)}${much}`, {
    hint: 'free some (`tsvm image prune` removes images that no VM uses), then pull again: it goes on where it stopped',
    ...(cause !== undefined && { cause }),
  });
}

/** Bytes a second over a sliding time. */
export class Rate {
  readonly #marks: (readonly [time: number, bytes: number])[] = [];

  /** Takes how many there are now. */
  of(bytes: number): number {
    const now = performance.now();
    const marks = this.#marks;
    const last = marks.at(-1);
    if (last === undefined || now - last[0] >= RATE_STEP_MS) marks.push([now, bytes]);
    while (marks.length > 2 && now - marks[0]![0] > RATE_SPAN_MS) marks.shift();
    const [start, from] = marks[0]!;
    return now - start < RATE_STEP_MS ? 0 : Math.max(0, ((bytes - from) / (now - start)) * 1000);
  }
}

const RATE_STEP_MS = 250;
const RATE_SPAN_MS = 5000;
