import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { StorageError } from '../../src/storage/disk.ts';
import { convertDisk } from '../../src/storage/tools.ts';
import type { DebianSystem } from './system.ts';

/** Debian's disk as a compressed qcow2 image, for overlays on it; made beside the raw one where it is not there yet. */
export async function compressedDebian(system: DebianSystem): Promise<string> {
  const path = join(system.folder, 'disk.qcow2');
  if (existsSync(path)) return path;
  try {
    await convertDisk({ path: system.disk, format: 'raw' }, { format: 'qcow2', path, compressed: true });
  } catch (error) {
    // Another process may have been at it, too.
    if (!(error instanceof StorageError && error.code === 'EEXIST')) throw error;
  }
  return path;
}
