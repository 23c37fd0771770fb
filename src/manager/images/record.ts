/** `image.json`, which a folder of an image has when it is complete. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';

import { systemCode } from '../../kvm/system-code.ts';
import { ImageError } from './errors.ts';
import { isImageId } from './names.ts';

const FORMAT = v.picklist(['qcow2', 'raw']);

const RECORD = v.object({
  version: v.literal(1),
  name: v.string(),
  title: v.string(),
  /** when it came here, ISO 8601 */
  created: v.pipe(v.string(), v.isoTimestamp()),
  /** where it is from: an address, or the file that was imported */
  source: v.string(),
  /** of the disk as the distributor published it: algorithm and digits */
  checksum: v.optional(v.string()),
  format: FORMAT,
  /** of the disk, in bytes */
  virtualSize: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  /** whether these lie in the folder */
  kernel: v.boolean(),
  initrd: v.boolean(),
  cmdline: v.optional(v.string()),
  user: v.optional(v.string()),
  agent: v.picklist(['included', 'install']),
});

export type ImageRecord = v.InferOutput<typeof RECORD>;

/** An image that is here, complete and checked. Its files are never written to. */
export type StoredImage = Omit<ImageRecord, 'version' | 'kernel' | 'initrd'> & {
  /** name of its folder; it stays the same while the name may come to mean a newer image */
  readonly id: string;
  readonly folder: string;
  /** path of the disk */
  readonly disk: string;
  /** path of the kernel that the distributor publishes with it; without one it is in the disk */
  readonly kernel?: string;
  readonly initrd?: string;
};

export const DISK_NAME = { qcow2: 'disk.qcow2', raw: 'disk.raw' } as const;
export const RECORD_NAME = 'image.json';

/** @throws ImageError (ENOENT where there is no such image; EFORMAT where what it says cannot be) */
export function readImage(images: string, id: string): StoredImage {
  const folder = join(images, id);
  let json: unknown;
  try {
    if (!isImageId(id)) throw new ImageError('ENOENT', `there is no image ${id.slice(0, 80)}`);
    json = JSON.parse(readFileSync(join(folder, RECORD_NAME), 'utf8'));
  } catch (error) {
    if (error instanceof ImageError) throw error;
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? ''))
      throw new ImageError('ENOENT', `there is no image ${id}`);
    throw damaged(id, error);
  }
  const result = v.safeParse(RECORD, json);
  if (!result.success) throw damaged(id, new Error(result.issues[0].message));
  const { name, title, created, source, format, virtualSize, agent } = result.output;
  const { kernel, initrd, checksum, cmdline, user } = result.output;
  return {
    ...{ name, title, created, source, format, virtualSize, agent },
    ...(checksum !== undefined && { checksum }),
    ...(cmdline !== undefined && { cmdline }),
    ...(user !== undefined && { user }),
    id,
    folder,
    disk: join(folder, DISK_NAME[format]),
    ...(kernel && { kernel: join(folder, 'vmlinuz') }),
    ...(initrd && { initrd: join(folder, 'initrd') }),
  };
}

function damaged(id: string, cause: unknown): ImageError {
  return new ImageError('EFORMAT', `the image ${id} is damaged`, {
    hint: `\`tsvm image rm ${id}\` removes it; pull it again then`,
    cause,
  });
}
