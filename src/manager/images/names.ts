import { createHash } from 'node:crypto';

import { ImageError } from './errors.ts';

const NAME_LIMIT = 64;
const NAME = /^[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?(?::[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)?$/;
/** of the identifier, in hexadecimal digits */
const SUFFIX = 12;
const ID = /^[a-z0-9][a-z0-9._-]*-[0-9a-f]{12}$/;

/**
 * Checks what an image is to be called: `ubuntu` or `ubuntu:24.04`.
 * @throws ImageError (EINVAL)
 */
export function checkName(name: string): void {
  if (name.length <= NAME_LIMIT && NAME.test(name) && !name.includes('..')) return;
  throw new ImageError('EINVAL', `this cannot be the name of an image: ${name.slice(0, NAME_LIMIT)}`, {
    hint: `up to ${NAME_LIMIT} small letters, digits and single . _ - between them, such as ubuntu or ubuntu:24.04`,
  });
}

/** Whether this can be the identifier of an image, which is the name of its folder. */
export function isImageId(text: string): boolean {
  return text.length <= NAME_LIMIT + SUFFIX + 1 && ID.test(text) && !text.includes('..');
}

/** The identifier of an image: its name, and a checksum over those of its files. */
export function imageId(name: string, digests: readonly string[]): string {
  const suffix = createHash('sha256').update(digests.join('\n')).digest('hex').slice(0, SUFFIX);
  return `${name.replace(':', '-')}-${suffix}`;
}
