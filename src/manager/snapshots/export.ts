/** Writes a snapshot to one file that another host can read: see archive.ts. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { nextData, nextHole } from '../../kvm/host-file.ts';
import { IoRing } from '../../kvm/io-ring.ts';
import { openDisk } from '../../storage/open.ts';
import { PromisedDisk } from '../../storage/promised-disk.ts';
import { extentAt } from '../../storage/qcow2/map.ts';
import { STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import { sparseHeader, TAR_END, tarHeader, tarPadding } from '../copy/tar-writer.ts';
import { parseNet } from '../options/net-options.ts';
import { layerFile, VM_INI } from '../vms/files.ts';
import { whileVmLocked } from '../vms/folder-lock.ts';
import type { VmSettings } from '../vms/settings.ts';
import type { VmStore } from '../vms/store.ts';
import {
  diskEntry,
  encodeMap,
  INITRD,
  joinExtents,
  KERNEL,
  MANIFEST,
  SUMS,
  type Extent,
  type Manifest,
} from './archive.ts';
import { SnapshotError } from './errors.ts';
import { MEMORY, snapshotFolder, type SnapshotRecord } from './record.ts';
import { recover } from './recover.ts';
import { checkSnapshot } from './restore.ts';
import { getSnapshot } from './store.ts';

/** Memory and disks are large: what a higher level saves costs several times the time. */
const LEVEL = 3;
const PIECE = 2 ** 20;

export type ExportOptions = {
  /** Takes the share that is done, from 0 to 1. */
  readonly onProgress?: (share: number) => void;
};

/**
 * Writes a snapshot to a stream, which is ended then.
 * @throws SnapshotError where it is damaged, or needs what another host does not have; StorageError
 */
export async function exportSnapshot(
  store: VmStore,
  name: string,
  snapshot: string,
  target: NodeJS.WritableStream,
  { onProgress }: ExportOptions = {},
): Promise<void> {
  const folder = store.folderOf(name);
  const ring = new IoRing();
  const parts: Part[] = [];
  try {
    const manifest = await whileVmLocked(folder, async () => {
      recover(folder);
      const record = getSnapshot(store, name, snapshot);
      const settings = await checkSnapshot(folder, name, record);
      refusePlaces(name, record, settings);
      // From here on all of it is open: nobody can remove it any more.
      return await openParts(ring, folder, name, record, settings, parts);
    });
    const total = parts.reduce(
      (sum, { extents }) => sum + extents.reduce((all, { length }) => all + length, 0),
      0,
    );
    let done = 0;
    const archive = archiveOf(manifest, parts, (bytes) => {
      done += bytes;
      onProgress?.(done / Math.max(1, total));
    });
    await pipeline(Readable.from(archive), createGzip({ level: LEVEL }), target);
  } finally {
    for (const part of parts) await part.close();
    ring.close();
  }
}

/** What ran goes on only where all that it has is there. @throws SnapshotError */
function refusePlaces(name: string, { memory }: SnapshotRecord, { network, shares }: VmSettings): void {
  if (!memory) return;
  const refuse = (what: string): SnapshotError =>
    new SnapshotError(
      'EPLACE',
      `the VM '${name}' has ${what}, which another host does not have: what ran cannot go on there`,
      'export a snapshot of its disks (`tsvm snapshot create --no-memory`)',
    );
  if (shares.length > 0) throw refuse('a shared folder');
  const card = network.cards.find((text) => isOfHost(text));
  if (card !== undefined) throw refuse(`a network card on ${card}`);
}

/** Whether a card is on something of the host that has a name there. */
export function isOfHost(card: string): boolean {
  const choice = parseNet(card);
  return choice !== 'none' && (choice.kind === 'tap' || choice.kind === 'stream');
}

/** An entry of the archive, open. */
type Part = {
  readonly name: string;
  readonly size: number;
  readonly extents: readonly Extent[];
  /** whether it is stored with a map */
  readonly sparse: boolean;
  read(offset: number, length: number): Promise<Buffer>;
  close(): Promise<void>;
};

async function openParts(
  ring: IoRing,
  folder: string,
  name: string,
  record: SnapshotRecord,
  settings: VmSettings,
  parts: Part[],
): Promise<Manifest> {
  const own = snapshotFolder(folder, record.name);
  const at = (path: string): string => (isAbsolute(path) ? path : join(folder, path));
  parts.push(textPart(VM_INI, readFileSync(join(own, VM_INI))));
  const { kernel, initrd } = settings.boot;
  if (kernel !== undefined) parts.push(await filePart(KERNEL, at(kernel)));
  if (initrd !== undefined) parts.push(await filePart(INITRD, at(initrd)));
  const disks: number[] = [];
  for (const [disk, { file, format, trustBacking }] of settings.disks.entries()) {
    const layer = record.disks.find((each) => each.disk === disk)?.layer;
    const path = at(layer === undefined ? file : layerFile(layer));
    const part = await diskPart(ring, diskEntry(disk), path, format, trustBacking);
    parts.push(part);
    disks.push(part.size);
  }
  const memory: { name: string; size: number }[] = [];
  if (record.memory) {
    parts.push(textPart(STATE_FILE, readFileSync(join(own, STATE_FILE))));
    for (const file of readdirSync(own).filter((each) => MEMORY.test(each))) {
      const part = await filePart(file, join(own, file), true);
      parts.push(part);
      memory.push({ name: file, size: part.size });
    }
  }
  // Its parent stays here.
  const snapshot = { ...record, parent: undefined };
  return { format: 'tsvm-export', version: 1, vm: name, snapshot, disks, memory };
}

const textPart = (name: string, bytes: Buffer): Part => ({
  name,
  size: bytes.length,
  extents: bytes.length === 0 ? [] : [{ offset: 0, length: bytes.length }],
  sparse: false,
  read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
  close: () => Promise.resolve(),
});

async function filePart(name: string, path: string, sparse = false): Promise<Part> {
  if (!existsSync(path))
    throw new SnapshotError('ENOENT', `${path} is not there any more, which the VM boots`);
  const file = await open(path, 'r');
  const { size } = await file.stat();
  return {
    name,
    size,
    extents: sparse ? joinExtents(extentsOf(file, size)) : [{ offset: 0, length: size }],
    sparse,
    read: async (offset, length) => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
      if (bytesRead === 0) throw new SnapshotError('EIO', `${path} has become shorter`);
      return buffer.subarray(0, bytesRead);
    },
    close: () => file.close(),
  };
}

function extentsOf({ fd }: FileHandle, size: number): Extent[] {
  const extents: Extent[] = [];
  for (let at = 0; at < size;) {
    const start = nextData(fd, at);
    if (start === undefined || start >= size) break;
    at = Math.min(nextHole(fd, start) ?? size, size);
    extents.push({ offset: start, length: at - start });
  }
  return extents;
}

async function diskPart(
  ring: IoRing,
  name: string,
  path: string,
  format: 'raw' | 'qcow2',
  trusted: boolean,
): Promise<Part> {
  const disk = new PromisedDisk(
    await openDisk(ring, { path, format, readOnly: true, backing: { trusted } }),
    ring,
  );
  const { size } = disk.disk;
  const extents: Extent[] = [];
  for (let at = 0; at < size;) {
    const { kind, length } = await extentAt(disk.disk, at, size);
    if (kind === 'data' || kind === 'compressed') extents.push({ offset: at, length });
    at += length;
  }
  const buffer = disk.buffer(PIECE);
  return {
    name,
    size,
    extents: joinExtents(extents),
    sparse: true,
    read: async (offset, length) => {
      await disk.read(offset, buffer, length);
      return Buffer.from(buffer.bytes.subarray(0, length));
    },
    close: () => disk.close(),
  };
}

async function* archiveOf(
  manifest: Manifest,
  parts: readonly Part[],
  tell: (bytes: number) => void,
): AsyncGenerator<Buffer> {
  const sums: string[] = [];
  const text = textPart(MANIFEST, Buffer.from(`${JSON.stringify(manifest, undefined, 2)}\n`));
  for (const part of [text, ...parts]) {
    const hash = createHash('sha256');
    for await (const piece of entryOf(part, tell, hash)) yield piece;
    sums.push(`${hash.digest('hex')}  ${part.name}\n`);
  }
  const last = textPart(SUMS, Buffer.from(sums.join('')));
  yield* entryOf(last, tell, createHash('sha256'));
  yield TAR_END;
}

type Hash = ReturnType<typeof createHash>;

async function* entryOf(part: Part, tell: (bytes: number) => void, hash: Hash): AsyncGenerator<Buffer> {
  const { name, size, sparse, extents } = part;
  const map = sparse ? encodeMap(extents, size) : Buffer.alloc(0);
  const stored = map.length + extents.reduce((sum, { length }) => sum + length, 0);
  const entry = { path: name, mode: 0o600, mtime: new Date(0) };
  yield sparse
    ? sparseHeader({ ...entry, realSize: size, size: stored })
    : tarHeader({ ...entry, type: 'File', size: stored });
  if (map.length > 0) {
    hash.update(map);
    yield map;
  }
  for (const { offset, length } of extents) {
    for (let at = offset; at < offset + length;) {
      const piece = await part.read(at, Math.min(PIECE, offset + length - at));
      at += piece.length;
      hash.update(piece);
      tell(piece.length);
      yield piece;
    }
  }
  yield tarPadding(stored);
}
