import type { Readable } from 'node:stream';

/** Standard input as far as the console uses it; a `tty.ReadStream` where it is a terminal. */
export type InputStream = Readable & {
  readonly isTTY?: boolean;
  setRawMode?(raw: boolean): unknown;
};

/** Where signals and `exit` are told: the process. */
export type ProcessEvents = {
  on(event: NodeJS.Signals | 'exit', listener: () => void): unknown;
  off(event: NodeJS.Signals | 'exit', listener: () => void): unknown;
};

/** A terminal in raw mode. */
export type RawMode = {
  /** Gives the terminal its settings back for a while, such as while the process is stopped. */
  readonly suspend: () => void;
  /** Sets raw mode again, also where somebody else changed the settings meanwhile. */
  readonly resume: () => void;
  /** Gives the terminal its settings back for good. May be called again. */
  readonly restore: () => void;
};

/**
 * Puts the terminal of `stdin` into raw mode. Its settings come back with {@link RawMode.restore}, and whenever
 * `processEvents` (the process) says `exit`, which an uncaught error does too. Only a signal that nobody handles
 * passes by both: the caller handles those that a person sends.
 */
export function enterRawMode(stdin: InputStream, processEvents: ProcessEvents): RawMode {
  let raw = false;
  const set = (on: boolean): void => {
    if (raw === on) return;
    raw = on;
    stdin.setRawMode?.(on);
  };
  const restore = (): void => {
    set(false);
    processEvents.off('exit', restore);
  };
  processEvents.on('exit', restore);
  set(true);
  return {
    suspend: () => set(false),
    resume: () => {
      // libuv ignores a mode that it thinks is set, whatever has become of the terminal.
      set(false);
      set(true);
    },
    restore,
  };
}
