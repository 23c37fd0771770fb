import { describe, expect, test } from 'vitest';
import { shareTags } from '../../../src/vmm/share-tags.ts';

const tags = (...guests: readonly (string | undefined)[]): string[] =>
  shareTags(guests.map((guest) => ({ path: '/', ...(guest !== undefined && { guest }) }))).map(
    ({ tag }) => tag,
  );

describe('tags of shared folders', () => {
  test('come of the path in the guest', () => {
    expect(tags('/mnt/src', '/data', '/srv/a b/ä')).toEqual(['mnt-src', 'data', 'srv-a-b-']);
  });

  test('are numbers where that is too long, taken or not there', () => {
    expect(tags('/', `/${'long'.repeat(10)}`, '/a/b', '/a-b', undefined)).toEqual([
      'share0',
      'share1',
      'a-b',
      'share3',
      'share4',
    ]);
  });

  test('are the ones that are given, which no other one gets', () => {
    expect(
      shareTags([
        { path: '/', guest: '/data' },
        { path: '/', tag: 'data' },
      ]).map(({ tag }) => tag),
    ).toEqual(['share0', 'data']);
    expect(() =>
      shareTags([
        { path: '/', tag: 'x' },
        { path: '/', tag: 'x' },
      ]),
    ).toThrow(/'x'/);
  });
});
