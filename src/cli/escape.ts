/**
 * The escape key of the console. Ctrl-] is what telnet and virsh use: no shell binds it, no UTF-8 sequence and no
 * key of a terminal contains the byte.
 */

/** Ctrl-] */
export const ESCAPE_BYTE = 0x1d;

export type ConsoleCommand = 'quit' | 'ctrl-alt-del' | 'power-button' | 'reset' | 'window-size' | 'help';

/** What a piece of typing comes to: bytes for the guest, or a command for tsvm. */
export type ConsoleEvent =
  | { readonly type: 'input'; readonly bytes: Uint8Array }
  | { readonly type: 'command'; readonly command: ConsoleCommand };

const KEYS: readonly (readonly [string, ConsoleCommand, string])[] = [
  ['q', 'quit', 'quit: end the VM at once'],
  ['c', 'ctrl-alt-del', 'send Ctrl-Alt-Del'],
  ['p', 'power-button', 'press the power button'],
  ['r', 'reset', 'reset the machine'],
  ['s', 'window-size', 'type the terminal\'s size as a "stty rows R cols C" command'],
  ['?', 'help', 'show these keys'],
];

const COMMANDS: ReadonlyMap<number, ConsoleCommand> = new Map(
  KEYS.map(([key, command]) => [key.charCodeAt(0), command]),
);

/** The keys, one a line. */
export function escapeHelp(): string {
  return [
    'Keys after Ctrl-]:',
    ...KEYS.map(([key, , meaning]) => `  ${key}       ${meaning}`),
    '  Ctrl-]  send Ctrl-] to the guest',
    '  other   are sent to the guest together with the Ctrl-]',
  ].join('\n');
}

/** Finds the escape key in what is typed, however the bytes are split over reads. */
export class EscapeFilter {
  /** the last byte was the escape key */
  #escaped = false;

  /** Takes the next bytes typed. What is for the guest comes back in as few pieces as order allows. */
  feed(bytes: Uint8Array): ConsoleEvent[] {
    const events: ConsoleEvent[] = [];
    let input: number[] = [];
    const flush = (): void => {
      if (input.length > 0) events.push({ type: 'input', bytes: Uint8Array.from(input) });
      input = [];
    };
    for (const byte of bytes) {
      if (!this.#escaped) {
        if (byte === ESCAPE_BYTE) this.#escaped = true;
        else input.push(byte);
        continue;
      }
      this.#escaped = false;
      const command = COMMANDS.get(byte);
      if (command !== undefined) {
        flush();
        events.push({ type: 'command', command });
      } else if (byte === ESCAPE_BYTE) {
        input.push(ESCAPE_BYTE);
      } else {
        // A key of several bytes (an arrow, a letter beyond ASCII) must not lose its first one.
        input.push(ESCAPE_BYTE, byte);
      }
    }
    flush();
    return events;
  }
}
