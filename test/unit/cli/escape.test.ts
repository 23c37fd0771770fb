import { describe, expect, it } from 'vitest';

import { type ConsoleEvent, EscapeFilter, escapeHelp } from '../../../src/cli/escape.ts';

function feed(...reads: (string | Uint8Array)[]): ConsoleEvent[] {
  const filter = new EscapeFilter();
  return reads.flatMap((read) => filter.feed(Buffer.from(read)));
}

/** Events with the input as text, neighbours joined. */
function shown(events: ConsoleEvent[]): string[] {
  const out: string[] = [];
  for (const event of events) {
    const last = out.at(-1);
    if (event.type === 'command') out.push(`<${event.command}>`);
    else if (last !== undefined && !last.startsWith('<')) out[out.length - 1] = last + latin1(event.bytes);
    else out.push(latin1(event.bytes));
  }
  return out;
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1');
}

describe('EscapeFilter', () => {
  it('passes what holds no escape key as one piece', () => {
    expect(feed('ls -l\r')).toEqual([{ type: 'input', bytes: Uint8Array.from(Buffer.from('ls -l\r')) }]);
  });

  it.each([
    ['q', 'quit'],
    ['c', 'ctrl-alt-del'],
    ['p', 'power-button'],
    ['r', 'reset'],
    ['s', 'window-size'],
    ['?', 'help'],
  ])('makes Ctrl-] %s the command %s', (key, command) => {
    expect(feed(`\x1d${key}`)).toEqual([{ type: 'command', command }]);
    expect(escapeHelp()).toContain(`\n  ${key} `);
  });

  it('keeps the order of input and commands', () => {
    expect(shown(feed('ab\x1dpcd\x1dref'))).toEqual(['ab', '<power-button>', 'cd', '<reset>', 'ef']);
  });

  it('sends Ctrl-] typed twice once', () => {
    expect(shown(feed('a\x1d\x1db'))).toEqual(['a\x1db']);
  });

  it('takes a key after a doubled escape as plain input', () => {
    expect(shown(feed('\x1d\x1dq'))).toEqual(['\x1dq']);
  });

  it('sends an unknown key together with the escape', () => {
    expect(shown(feed('\x1dx\x1dQ'))).toEqual(['\x1dx\x1dQ']);
  });

  it('holds an escape back until its key comes', () => {
    const filter = new EscapeFilter();
    expect(shown(filter.feed(Buffer.from('a\x1d')))).toEqual(['a']);
    expect(filter.feed(new Uint8Array(0))).toEqual([]);
    expect(filter.feed(Buffer.from('q'))).toEqual([{ type: 'command', command: 'quit' }]);
  });

  it('passes an arrow key after the escape whole', () => {
    expect(shown(feed('\x1d\x1b[A'))).toEqual(['\x1d\x1b[A']);
  });

  it('passes every byte value but the escape through', () => {
    const all = Uint8Array.from({ length: 256 }, (_, i) => i).filter((byte) => byte !== 0x1d);
    expect(feed(all)).toEqual([{ type: 'input', bytes: all }]);
  });

  it('passes UTF-8, whole or split inside a character', () => {
    const text = Buffer.from('grün 語 🐧');
    for (let cut = 0; cut <= text.length; cut++) {
      const events = feed(text.subarray(0, cut), text.subarray(cut));
      const bytes = events.map((event) => (event.type === 'input' ? event.bytes : new Uint8Array(0)));
      expect(Buffer.concat(bytes)).toEqual(text);
    }
  });

  it('gives the same result however the reads are split', () => {
    const typed = Buffer.from('a\x1dcb\x1d\x1dé\x1dx\x1d\x1b[B\x1d?q');
    const whole = shown(feed(typed));
    expect(whole).toEqual(['a', '<ctrl-alt-del>', 'b\x1d\xc3\xa9\x1dx\x1d\x1b[B', '<help>', 'q']);
    for (let cut = 0; cut <= typed.length; cut++) {
      expect(shown(feed(typed.subarray(0, cut), typed.subarray(cut)))).toEqual(whole);
    }
    expect(shown(feed(...Array.from(typed, (byte) => Uint8Array.of(byte))))).toEqual(whole);
  });
});
