/** Copies of a guest's kernel and initrds on the host, for a VMM that boots them. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { StorageError } from '../../../storage/disk.ts';
import type { GuestDisk } from '../../../storage/guest-fs/guest-disk.ts';
import { NewFile } from '../../../storage/new-file.ts';
import { findBoot, type BootFile, type GuestBoot } from './find-boot.ts';

export type ExtractedBoot = {
  /** files on the host */
  readonly kernel: string;
  readonly initrds: readonly string[];
  readonly commandLine: string;
  /** what was found, for messages and for `info` */
  readonly boot: Pick<GuestBoot, 'title' | 'source' | 'rootPartition' | 'notes'>;
  /** whether all of it was there from an earlier time */
  readonly wasCached: boolean;
};

const PIECE = 2 ** 20;
const NAME = /^(kernel|initrd)-[0-9a-f]{32}$/;

/**
 * Puts what a disk would boot into a folder, unless it is there from an earlier time: a file is taken for unchanged by
 * its place, inode, size and times. Files of other kernels that this has put there before go.
 * @param folder of this disk alone, since a guest chooses what its files look like; made where it is not there
 * @throws NotBootableError, GuestFsError (EIO, or ECORRUPT within a file), StorageError where it cannot be written
 */
export async function extractBoot(disk: GuestDisk, folder: string): Promise<ExtractedBoot> {
  const boot = await findBoot(disk);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  let wasCached = true;
  const extract = async (kind: 'kernel' | 'initrd', file: BootFile): Promise<string> => {
    const path = join(folder, `${kind}-${keyOf(file)}`);
    if (sizeOf(path) !== file.file.size) {
      wasCached = false;
      await copy(file, path);
    }
    return path;
  };
  const kernel = await extract('kernel', boot.kernel);
  const initrds: string[] = [];
  for (const file of boot.initrds) initrds.push(await extract('initrd', file));
  for (const name of readdirSync(folder))
    if (NAME.test(name) && ![kernel, ...initrds].includes(join(folder, name))) rmSync(join(folder, name));
  const { title, source, rootPartition, notes, commandLine } = boot;
  return { kernel, initrds, commandLine, boot: { title, source, rootPartition, notes }, wasCached };
}

function keyOf({ path, partition, fsUuid, file }: BootFile): string {
  const parts = [path, String(partition), fsUuid, file.stamp];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
}

function sizeOf(path: string): number | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat?.isFile() === true ? stat.size : undefined;
}

async function copy({ file }: BootFile, path: string): Promise<void> {
  const target = new NewFile(path, sizeOf(path) !== undefined);
  try {
    const piece = new Uint8Array(PIECE);
    for (let at = 0; at < file.size; at += PIECE) {
      const part = piece.subarray(0, Math.min(PIECE, file.size - at));
      await file.read(at, part);
      writeAll(target, part);
    }
    target.publish();
  } catch (error) {
    // Somebody else has put the same file there meanwhile.
    if (error instanceof StorageError && error.code === 'EEXIST' && sizeOf(path) === file.size) return;
    throw error;
  } finally {
    target.discard();
  }
}

function writeAll(target: NewFile, bytes: Uint8Array): void {
  try {
    for (let done = 0; done < bytes.length;) done += writeSync(target.fd, bytes, done);
  } catch (error) {
    throw target.errorOf(error);
  }
}
