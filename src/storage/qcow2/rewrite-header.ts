/** Changes what an image that nobody uses says of the file below it. */
import type { IoRing } from '../../kvm/io-ring.ts';
import { stampOf } from './backing-stamp.ts';
import { EXTENSION, SECTOR } from './format.ts';
import { encodeHeader, readU64, viewOf, type Header } from './header.ts';
import { RingFile } from './host-file.ts';
import { readHeader } from './open.ts';
import { syncFully, writeFully } from './sync-read.ts';

/**
 * @param backing none where undefined
 * @param path where that is from here
 * @throws StorageError
 */
export function setBacking(
  ring: IoRing,
  image: string,
  backing: { readonly name: string; readonly format: 'raw' | 'qcow2' } | undefined,
  path: string | undefined,
): void {
  rewrite(ring, image, (header) => {
    header.backingFile = backing?.name;
    header.backingFormat = backing?.format;
    setStamp(header, path);
  });
}

/**
 * Notes how the backing file is now.
 * @param path of the backing file; undefined where it is about to change, and that shall not matter
 * @throws StorageError
 */
export function restampBacking(ring: IoRing, image: string, path: string | undefined): void {
  rewrite(ring, image, (header) => setStamp(header, path));
}

function setStamp(header: Header, path: string | undefined): void {
  const others = header.extensions.filter(({ type }) => type !== EXTENSION.backingStamp);
  header.extensions = path === undefined ? others : [stampOf(path), ...others];
}

/**
 * All that tells old from new is in the first sector. The name goes to a place where the old one is not, and is there
 * before anything refers to it.
 */
function rewrite(ring: IoRing, path: string, change: (header: Header) => void): void {
  const file = new RingFile(ring, path, false);
  try {
    const { header, bytes } = readHeader(file);
    const view = viewOf(bytes);
    const oldName = { offset: readU64(view, 8), length: view.getUint32(16) };
    change(header);
    const encoded = encodeHeader(path, header, oldName.offset === 0 ? undefined : oldName);
    const rest = encoded.subarray(SECTOR);
    if (oldName.offset > 0) keep(rest, bytes, oldName);
    if (rest.length > 0) {
      writeFully(file, SECTOR, rest);
      syncFully(file);
    }
    writeFully(file, 0, encoded.subarray(0, SECTOR));
    syncFully(file);
  } finally {
    file.close();
  }
}

/** Leaves the old name where it is, as far as nothing new lies there. */
function keep(
  rest: Uint8Array,
  old: Uint8Array,
  name: { readonly offset: number; readonly length: number },
): void {
  for (let at = Math.max(SECTOR, name.offset); at < name.offset + name.length; at++) {
    if (rest[at - SECTOR] === 0) rest[at - SECTOR] = old[at]!;
  }
}
