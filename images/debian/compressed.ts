import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { IoRing } from '../../src/kvm/io-ring.ts';
import { convertDisk } from '../../src/storage/convert.ts';
import { StorageError } from '../../src/storage/disk.ts';
import { openDisk } from '../../src/storage/open.ts';
import type { DebianSystem } from './system.ts';

/** Debian's disk as a compressed qcow2 image, for overlays on it; made beside the raw one where it is not there yet. */
export async function compressedDebian(system: DebianSystem): Promise<string> {
  const path = join(system.folder, 'disk.qcow2');
  if (existsSync(path)) return path;
  const ring = new IoRing();
  try {
    const source = await openDisk(ring, { path: system.disk, format: 'raw', readOnly: true });
    await convertDisk(ring, source, { format: 'qcow2', path, compressed: true });
  } catch (error) {
    // Another process may have been at it, too.
    if (!(error instanceof StorageError && error.code === 'EEXIST')) throw error;
  } finally {
    ring.close();
  }
  return path;
}
