import { describe, expect, it } from 'vitest';

import { IniError, parseIni } from '../../../src/manager/ini.ts';
import { Random } from '../../fuzz/random.ts';

const sections = (text: string): Record<string, Record<string, string>> =>
  Object.fromEntries(parseIni(text, 'x.ini').map(({ name, values }) => [name, Object.fromEntries(values)]));

describe('settings', () => {
  it('are text in sections, whose names may have dots', () => {
    expect(sections('a = 1\n; no\n[b:1.2]\nc = true ; why\n# no\n[image "d:3.4"]\r\ne="f # g"\r\n')).toEqual({
      '': { a: '1' },
      'b:1.2': { c: 'true' },
      'image "d:3.4"': { e: 'f # g' },
    });
  });

  it('have lines, for errors', () => {
    const [, section] = parseIni('\n[a.b]\n\nc = 1\n', 'x.ini');
    expect(section?.line).toBe(2);
    expect(section?.error('is wrong', 'c').message).toBe('x.ini:4: is wrong');
    expect(section?.error('is wrong').message).toBe('x.ini:2: is wrong');
  });
});

describe('what is refused, with its line', () => {
  it.each([
    ['a line that is nothing', 'a = 1\nb\n', 2],
    ['a key twice', '[a]\nb = 1\nc = 2\nb = 3\n', 4],
    ['a section twice', '[a]\nb = 1\n[a]\n', 3],
    ['a list', '[a]\nb[] = 1\n', 2],
    ['no key', ' = 1', 1],
    ['no name of a section', 'a = 1\n[]', 2],
    ['a section that is not closed', '[a\nb = 1', 1],
    ['the prototype of objects', '[__proto__]\nx = 1', 1],
    ['the prototype of objects, within', '[a.__proto__.b]\nx = 1', 1],
    ['the prototype as a key', '[a]\n__proto__ = 1', 2],
    ['a key that is a section', 'a = 1\n[a]\nb = 1', 2],
    ['a key that is a section within one', '[a]\nb = 1\n[a.b]\nc = 1', 3],
    ['a comment in a name', '[a]\nb;c = 1', 2],
    ['a control character', 'a = 1\0', 1],
    ['an object', '[a]\nb = \'{"c": {"d": 1}}\'', 1],
  ])('%s', (_, text, line) => {
    expect(() => parseIni(text, 'x.ini')).toThrow(expect.objectContaining({ code: 'EINI', line }));
  });

  it('a file that is too large', () => {
    expect(() => parseIni('a'.repeat(2 ** 20 + 1), 'x.ini')).toThrow(IniError);
  });
});

it('comes to values or to an IniError, whatever is in the file', () => {
  const pieces = [
    ...['[', ']', '=', '.', ';', '#', '"', "'", '\\', '\n', '\r\n', ' ', '\t', '\0', '{', '}', ','],
    ...[
      'a',
      'b',
      '1',
      'a.b',
      '__proto__',
      'constructor',
      'toString',
      'true',
      'null',
      '[a]\n',
      'b = 1\n',
      '[]',
      'ä',
    ],
  ];
  let good = 0;
  for (let seed = 0; seed < 4000; seed++) {
    const random = new Random(seed);
    const text = Array.from({ length: random.between(1, 30) }, () => random.pick(pieces)).join('');
    try {
      for (const { values } of parseIni(text, 'x.ini')) {
        good++;
        for (const value of values.values()) expect(value).toBeTypeOf('string');
      }
    } catch (error) {
      expect(error, `seed ${seed}`).toBeInstanceOf(IniError);
    }
  }
  expect(good).toBeGreaterThan(100);
  expect(({} as Record<string, unknown>)['b']).toBeUndefined();
});
