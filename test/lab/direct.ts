import {
  OutputCollector,
  DEFAULT_TIMEOUT_MS,
  startRequest,
  type Command,
  type ExecOptions,
  type ExecResult,
} from './commands.ts';
import { CommandProcess } from './process.ts';
import { Readable } from 'node:stream';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** Runs a command on this machine as {@link Lab.exec} does in level 1. */
export function execDirect(command: Command, options: ExecOptions = {}): Promise<ExecResult> {
  const collector = new OutputCollector(options);
  return new Promise((resolve, reject) => {
    let timedOut = false;
    let timer: NodeJS.Timeout | undefined;
    let taken: (() => void) | undefined;
    const child = new CommandProcess(startRequest(command, options), {
      output: (stream, data) => collector.add(stream, data),
      stdinTaken: () => taken?.(),
      exit: (code) => {
        clearTimeout(timer);
        resolve({ code, ...collector.text(), timedOut });
      },
      failed: (message) => {
        clearTimeout(timer);
        reject(new Error(message));
      },
    });
    const limit = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    if (Number.isFinite(limit)) {
      timer = setTimeout(() => {
        timedOut = true;
        child.kill();
      }, limit);
    }
    const { stdin } = options;
    if (stdin === undefined) return child.endStdin();
    const source =
      typeof stdin === 'string' || stdin instanceof Uint8Array ? Readable.from([Buffer.from(stdin)]) : stdin;
    const sink = new Writable({
      write(chunk: Buffer, _encoding, done) {
        taken = () => done();
        child.write(chunk);
      },
      final(done) {
        child.endStdin();
        done();
      },
    });
    pipeline(source, sink).catch(() => child.endStdin());
  });
}
