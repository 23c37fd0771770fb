import { copyFile, mkdir, rm } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import type { DiskFormat } from '../../src/storage/open.ts';
import { convertDisk, createDisk, createOverlay } from '../../src/storage/tools.ts';
import { writeStampedImage } from '../devices/disk-image.ts';

/** How a disk lies in its files. */
export type Layout = {
  readonly name: string;
  readonly format: DiskFormat;
  /** every block of 4 KiB holds its stamp */
  readonly stamped: boolean;
  /** Makes the disk anew and returns the path of its top image. */
  fresh(): Promise<string>;
};

const LAYERS = 3;

/**
 * The same disk in all layouts that are measured, in a folder that is made anew. What a run has written is gone with
 * the next `fresh()`.
 * @param size in bytes, whole MiB
 */
export async function layouts(folder: string, size: number): Promise<Layout[]> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  const at = (name: string): string => join(folder, name);
  await writeStampedImage(at('data.raw'), size);
  await convertDisk({ path: at('data.raw'), format: 'raw' }, { format: 'qcow2', path: at('data.qcow2') });
  const copy = async (from: string, to: string): Promise<string> => {
    await rm(at(to), { force: true });
    await copyFile(at(from), at(to), constants.COPYFILE_FICLONE);
    // What is dirty would be written back while somebody is measured.
    await execa('sync', [at(to)]);
    return at(to);
  };
  const overlay = async (below: string, to: string): Promise<string> => {
    await createOverlay(at(to), { name: below, format: 'qcow2' }, { replace: true });
    return at(to);
  };
  return [
    { name: 'raw', format: 'raw', stamped: true, fresh: () => copy('data.raw', 'run.raw') },
    { name: 'allocated', format: 'qcow2', stamped: true, fresh: () => copy('data.qcow2', 'run.qcow2') },
    {
      name: 'unallocated',
      format: 'qcow2',
      stamped: false,
      fresh: async () => {
        await createDisk(at('empty.qcow2'), { format: 'qcow2', size, replace: true });
        return at('empty.qcow2');
      },
    },
    {
      name: 'one backing layer',
      format: 'qcow2',
      stamped: true,
      fresh: () => overlay('data.qcow2', 'over1.qcow2'),
    },
    {
      name: 'three backing layers',
      format: 'qcow2',
      stamped: true,
      fresh: async () => {
        let below = 'data.qcow2';
        for (let layer = 1; layer < LAYERS; layer++) {
          const name = `layer${layer}.qcow2`;
          await overlay(below, name);
          below = name;
        }
        return overlay(below, 'over3.qcow2');
      },
    },
  ];
}
