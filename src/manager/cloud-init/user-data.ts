import { CloudInitError } from './errors.ts';

/** What a file of the user may have, in bytes. The clouds take 16 to 64 KiB. */
export const USER_DATA_LIMIT = 2 ** 20;

/**
 * How user data begins, of all kinds that cloud-init knows ("User-data formats" in its manual): it takes no notice of
 * anything else.
 */
const STARTS = [
  '#cloud-config',
  '#!',
  '#include',
  '#cloud-boothook',
  '#part-handler',
  '#upstart-job',
  '## template: jinja',
  'content-type:',
  'mime-version:',
] as const;
const GZIP = [0x1f, 0x8b];

/**
 * Checks what a user gave as cloud-init's user data. It goes to the guest as it is, of whatever kind.
 * @param name of the file, for errors
 * @throws CloudInitError where cloud-init would not take it
 */
export function checkUserData(content: Uint8Array, name: string): void {
  if (content.length > USER_DATA_LIMIT) {
    throw new CloudInitError(
      `${name} has ${content.length} bytes, and user data may have ${USER_DATA_LIMIT}`,
      'have it fetch what is large: `#include` takes addresses',
    );
  }
  if (GZIP.every((byte, at) => content[at] === byte)) return;
  const start = Buffer.from(content.subarray(0, 64)).toString('latin1').toLowerCase();
  if (STARTS.some((known) => start.startsWith(known))) return;
  throw new CloudInitError(
    `${name} does not begin like anything that cloud-init takes`,
    'the first line of a configuration has to be `#cloud-config`, and that of a script `#!/bin/sh`',
  );
}
