import type { SerialPort } from '../vmm/types.ts';
import { type ConsoleCommand, EscapeFilter } from './escape.ts';
import type { InputStream } from './terminal.ts';

/** Bytes of typing kept for a guest that does not take them; a terminal has to be read on for the escape key. */
export const TYPEAHEAD_LIMIT = 1024 * 1024;

export type PipeEvents = {
  /** reading failed; the VM goes on without input */
  onError(error: Error): void;
};

export type TerminalEvents = {
  onCommand(command: ConsoleCommand): void;
  /** typing was dropped because the guest takes none; told once */
  onDrop(): void;
  /** the terminal is gone */
  onHangup(): void;
};

/**
 * Feeds a pipe or a file to the guest, every byte as it is, no faster than the guest takes it. The end of the
 * input ends nothing. Returns what stops it.
 */
export function pumpPipe(stdin: InputStream, serial: SerialPort, events: PipeEvents): () => void {
  let stopped = false;
  const onData = (bytes: Uint8Array | string): void => {
    stdin.pause();
    const resume = (): void => {
      if (!stopped) stdin.resume();
    };
    // A write fails only with the VM, whose end is told elsewhere; nothing is read on then.
    serial.write(bytes).then(resume, () => undefined);
  };
  const onError = (error: Error): void => {
    if (!stopped) events.onError(error);
  };
  stdin.on('data', onData);
  stdin.on('error', onError);
  return () => {
    stopped = true;
    stdin.off('data', onData);
    stdin.pause();
  };
}

/** Feeds what is typed to the guest, with the escape key taken out. Returns what stops it. */
export function pumpTerminal(stdin: InputStream, serial: SerialPort, events: TerminalEvents): () => void {
  const filter = new EscapeFilter();
  let stopped = false;
  let waiting = 0;
  let dropped = false;

  const send = (bytes: Uint8Array): void => {
    if (waiting + bytes.length > TYPEAHEAD_LIMIT) {
      if (!dropped) events.onDrop();
      dropped = true;
      return;
    }
    waiting += bytes.length;
    const taken = (): void => {
      waiting -= bytes.length;
    };
    serial.write(bytes).then(taken, taken);
  };
  const onData = (bytes: Uint8Array): void => {
    for (const event of filter.feed(bytes)) {
      if (event.type === 'input') send(event.bytes);
      else events.onCommand(event.command);
    }
  };
  const onGone = (): void => {
    if (!stopped) events.onHangup();
  };
  stdin.on('data', onData);
  stdin.on('end', onGone);
  stdin.on('error', onGone);
  return () => {
    stopped = true;
    stdin.off('data', onData);
    stdin.off('end', onGone);
    stdin.pause();
  };
}
