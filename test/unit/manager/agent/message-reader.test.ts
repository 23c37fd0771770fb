import { expect, test } from 'vitest';
import { MessageReader } from '../../../../src/manager/agent/message-reader.ts';

/** All the messages of a text, fed in pieces of so many bytes. */
function messages(text: string, piece: number, limit = 100): [string, boolean][] | 'too large' {
  const found: [string, boolean][] = [];
  const reader = new MessageReader(limit, ({ bytes, delimited }) =>
    found.push([bytes.toString(), delimited]),
  );
  const all = Buffer.from(text, 'latin1');
  for (let at = 0; at < all.length; at += piece) {
    if (!reader.feed(all.subarray(at, at + piece))) return 'too large';
  }
  return found;
}

const PIECES = [1, 2, 3, 7, 1000];

test.each(PIECES)('lines are messages, in pieces of %i bytes', (piece) => {
  expect(messages('one\ntwo\n\nthree', piece)).toEqual([
    ['one', false],
    ['two', false],
  ]);
});

test.each(PIECES)('the sentinel drops what came before it in its line, in pieces of %i bytes', (piece) => {
  expect(messages('rubb\xff\xffsync\nplain\n\xffagain\n', piece)).toEqual([
    ['sync', true],
    ['plain', false],
    ['again', true],
  ]);
});

test.each(PIECES)('a message has at most so many bytes as the limit says, in pieces of %i bytes', (piece) => {
  expect(messages(`${'x'.repeat(100)}\n`, piece)).toHaveLength(1);
  expect(messages(`${'x'.repeat(101)}\n`, piece)).toBe('too large');
  expect(messages('x'.repeat(101), piece)).toBe('too large');
  expect(messages(`${'x'.repeat(60)}\xff${'y'.repeat(60)}\n`, piece)).toEqual([['y'.repeat(60), true]]);
});
