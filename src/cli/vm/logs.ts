import { closeSync, existsSync, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { EXIT } from '../exit-codes.ts';
import { endedBySignals } from '../signals.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

type LogFlags = { readonly follow?: true; readonly process?: true; readonly lines?: number };

const EXAMPLES = ['tsvm logs web', 'tsvm logs -f -n 20 web', 'tsvm logs --process web'];
const POLL_MS = 200;
const PIECE = 65_536;

/** `tsvm logs`: what a VM's console, or its process, has said. */
export function addLogs(program: Command, done: Done): void {
  addVerb(program, 'logs', 'show what the console of a VM has said', EXAMPLES)
    .argument('<name>', NAME_HELP)
    .option('-f, --follow', 'go on with what comes, until the VM ends')
    .option('-n, --lines <n>', 'only so many lines of what there is', wholeNumber(0, 1_000_000))
    .option('--process', "the messages of the VM's process instead")
    .action(async (name: string, flags: LogFlags) => {
      const store = openStore();
      const file = join(store.folderOf(name), 'log', flags.process ? 'tsvm.log' : 'console.log');
      await endedBySignals(async () => {
        const log = new LogReader(file);
        process.stdout.write(lastLines(log.rest(), flags.lines));
        while (flags.follow) {
          const running = store.status(name).state === 'running';
          process.stdout.write(log.rest());
          if (!running) break;
          await sleep(POLL_MS);
        }
        log.close();
      });
      done(EXIT.ok);
    });
}

function lastLines(text: Buffer, lines: number | undefined): Buffer {
  if (lines === undefined) return text;
  let at = text.length;
  // The last line's own end does not count.
  if (text.at(-1) === 0x0a) at--;
  for (let left = lines; left > 0 && at > 0; left--) at = text.lastIndexOf(0x0a, at - 1);
  return lines === 0 ? Buffer.alloc(0) : text.subarray(at <= 0 ? 0 : at + 1);
}

/** Reads a log to its end, again and again, also where a new file has taken its place. */
class LogReader {
  readonly #path: string;
  #fd: number | undefined;
  #at = 0;

  constructor(path: string) {
    this.#path = path;
  }

  rest(): Buffer {
    const pieces: Buffer[] = [];
    this.#read(pieces);
    if (this.#isReplaced()) {
      this.close();
      this.#read(pieces);
    }
    return Buffer.concat(pieces);
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    this.#at = 0;
  }

  #read(pieces: Buffer[]): void {
    if (this.#fd === undefined && existsSync(this.#path)) this.#fd = openSync(this.#path, 'r');
    if (this.#fd === undefined) return;
    for (;;) {
      const piece = Buffer.allocUnsafe(PIECE);
      const count = readSync(this.#fd, piece, 0, PIECE, this.#at);
      if (count === 0) return;
      this.#at += count;
      pieces.push(piece.subarray(0, count));
    }
  }

  #isReplaced(): boolean {
    if (this.#fd === undefined || !existsSync(this.#path)) return false;
    const fd = openSync(this.#path, 'r');
    try {
      return fstatSync(fd).ino !== fstatSync(this.#fd).ino;
    } finally {
      closeSync(fd);
    }
  }
}
