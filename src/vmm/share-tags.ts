import { TAG_SIZE } from '../devices/fs/protocol.ts';
import type { Share, ShareOptions } from './types.ts';

/**
 * Gives each share the tag that the guest mounts it by: its own, or its path in the guest with dashes, so that an
 * fstab in the guest does not depend on the other shares.
 * @throws RangeError where two have the same
 */
export function shareTags(shares: readonly ShareOptions[]): Share[] {
  const taken = new Set(shares.flatMap(({ tag }) => (tag === undefined ? [] : [tag])));
  const tagged = shares.map((share, index) => {
    if (share.tag !== undefined) return { ...share, tag: share.tag };
    const tag = tagOf(share.guest, taken) ?? freeTag(index, taken);
    taken.add(tag);
    return { ...share, tag };
  });
  for (const [index, { tag }] of tagged.entries()) {
    if (tagged.findIndex((other) => other.tag === tag) !== index)
      throw new RangeError(`two shared folders have the tag '${tag}'`);
  }
  return tagged;
}

function tagOf(guest: string | undefined, taken: ReadonlySet<string>): string | undefined {
  const tag = guest?.replace(/^\/+|\/+$/g, '').replaceAll(/[^A-Za-z0-9._]+/g, '-');
  return tag === undefined || tag === '' || tag.length > TAG_SIZE || taken.has(tag) ? undefined : tag;
}

function freeTag(index: number, taken: ReadonlySet<string>): string {
  for (let i = index; ; i++) if (!taken.has(`share${i}`)) return `share${i}`;
}
