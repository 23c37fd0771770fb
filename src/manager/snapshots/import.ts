/**
 * Makes a VM of an exported snapshot: see archive.ts. Nothing of the archive is believed: it has the entries that its
 * manifest says, in this order and of these sizes, their names are ours, and of its settings only what is the guest's
 * own is taken over.
 */
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import * as v from 'valibot';
import { IoRing } from '../../kvm/io-ring.ts';
import { openDisk } from '../../storage/open.ts';
import { PromisedDisk } from '../../storage/promised-disk.ts';
import { createDisk, createOverlay } from '../../storage/tools.ts';
import { createTouched } from '../../vmm/snapshot/touched.ts';
import { readState, STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import { SPARSE_FOLDER } from '../copy/tar-writer.ts';
import { readTar, TarError, type TarEntry } from '../copy/tar-reader.ts';
import { layerFile, RESUME, SNAPSHOTS, VM_INI } from '../vms/files.ts';
import type { DiskSettings, VmSettings } from '../vms/settings.ts';
import type { VmStore } from '../vms/store.ts';
import { formatVmIni, parseVmIni } from '../vms/vm-ini.ts';
import {
  diskEntry,
  INITRD,
  KERNEL,
  MANIFEST,
  manifestSchema,
  MapReader,
  SUMS,
  TEXT_LIMIT,
  type Manifest,
} from './archive.ts';
import { SnapshotError } from './errors.ts';
import { isOfHost } from './export.ts';
import { newLayerId } from './layers.ts';
import { digestOf, writeSnapshot, type SnapshotRecord } from './record.ts';
import { setCurrent } from './recover.ts';
import { linkMachine } from './restore.ts';

/** of a kernel or an initial RAM disk, in bytes */
const BOOT_LIMIT = 2 ** 30;
/** of `state.json`, in bytes: the VMM takes no more */
const STATE_LIMIT = 64 * 2 ** 20;
const FROZEN_MODE = 0o400;
const SECTOR = 512;
const PIECE = 2 ** 20;

export type Imported = {
  readonly name: string;
  readonly snapshot: string;
  /** whether what ran goes on when the VM is started */
  readonly memory: boolean;
  /** settings that were left out, for people */
  readonly left: readonly string[];
};

/**
 * Makes a VM of what a stream has, which is as it was at the snapshot, and has that snapshot.
 * @param name default: what the VM was called
 * @throws SnapshotError (EFORMAT where the archive is damaged, cut off or no such archive), VmStoreError (EEXIST),
 * StorageError; nothing is left then
 */
export async function importSnapshot(store: VmStore, source: Readable, name?: string): Promise<Imported> {
  const gunzip = createGunzip();
  source.on('error', (error) => gunzip.destroy(error));
  source.pipe(gunzip);
  try {
    const archive = new Archive(readTar(gunzip));
    const text = await archive.text(MANIFEST);
    const manifest = v.safeParse(v.pipe(v.string(), v.parseJson(), manifestSchema), text);
    if (!manifest.success) {
      const [issue] = manifest.issues;
      throw refusal(`its ${MANIFEST} cannot be: '${v.getDotPath(issue) ?? ''}': ${issue.message}`);
    }
    const own = name ?? manifest.output.vm;
    const imported = {
      name: own,
      snapshot: manifest.output.snapshot.name,
      memory: manifest.output.snapshot.memory,
    };
    let left: readonly string[] = [];
    await store.create(own, async (folder) => {
      const made = await unpack(archive, manifest.output, folder, own);
      ({ left } = made);
      return made.settings;
    });
    return { ...imported, left };
  } catch (error) {
    if (error instanceof TarError) throw refusal(error.message);
    if (error instanceof Error && 'code' in error && String(error.code).startsWith('Z_'))
      throw refusal(`it is cut off, or not compressed by gzip (${error.message})`);
    throw error;
  } finally {
    source.destroy();
    gunzip.destroy();
  }
}

const refusal = (why: string): SnapshotError =>
  new SnapshotError('EFORMAT', `the file is no snapshot that can be imported: ${why}`);

/** The entries of an archive, of which the next is always known. */
class Archive {
  readonly #entries: AsyncGenerator<TarEntry>;
  readonly #sums: string[] = [];

  constructor(entries: AsyncGenerator<TarEntry>) {
    this.#entries = entries;
  }

  async text(name: string, limit = TEXT_LIMIT): Promise<string> {
    const pieces: Buffer[] = [];
    await this.#read(name, name, limit, (bytes) => void pieces.push(bytes));
    return Buffer.concat(pieces).toString('utf8');
  }

  /** Content as it is. */
  async plain(
    name: string,
    limit: number,
    write: (bytes: Buffer, at: number) => Promise<void>,
  ): Promise<void> {
    let at = 0;
    await this.#read(name, name, limit, async (bytes) => {
      await write(bytes, at);
      at += bytes.length;
    });
  }

  /** What is no hole of a file that has `size` bytes; @param unit what offsets and lengths are multiples of */
  async sparse(
    name: string,
    size: number,
    unit: number,
    write: (bytes: Buffer, at: number) => Promise<void>,
  ): Promise<void> {
    const map = new MapReader(size, unit);
    let extents: Iterator<{ readonly offset: number; readonly length: number }> | undefined;
    let at = 0;
    let end = 0;
    await this.#read(name, SPARSE_FOLDER + name, Infinity, async (bytes) => {
      let rest: Buffer | undefined = bytes;
      if (extents === undefined) {
        rest = map.take(bytes);
        if (rest === undefined) return;
        extents = map.extents()[Symbol.iterator]();
      }
      while (rest.length > 0) {
        if (at === end) {
          const next = extents.next();
          if (next.done === true) throw new RangeError('it is longer than its map says');
          at = next.value.offset;
          end = at + next.value.length;
        }
        const piece = rest.subarray(0, end - at);
        await write(piece, at);
        at += piece.length;
        rest = rest.subarray(piece.length);
      }
    });
    if (extents === undefined || at !== end || extents.next().done !== true)
      throw refusal(`${name} is shorter than its map says`);
  }

  /** The checksums of all that was read so far, which have to be what the last entry says. */
  async finish(): Promise<void> {
    const expected = this.#sums.join('');
    if ((await this.text(SUMS)) !== expected) throw refusal('a checksum is wrong: it was damaged on its way');
    if ((await this.#entries.next()).done !== true) throw refusal('it goes on after its checksums');
  }

  async #read(
    name: string,
    path: string,
    limit: number,
    use: (bytes: Buffer) => Promise<void> | void,
  ): Promise<void> {
    const next = await this.#entries.next();
    if (next.done === true) throw refusal(`it has no ${name}`);
    const entry = next.value;
    if (entry.path !== path || entry.type !== 'file')
      throw refusal(`it has ${JSON.stringify(entry.path.slice(0, 100))} in the place of ${name}`);
    if (entry.size > limit) throw refusal(`${name} is too large`);
    const hash = createHash('sha256');
    try {
      for await (const bytes of entry.content) {
        hash.update(bytes);
        await use(bytes);
      }
    } catch (error) {
      if (error instanceof RangeError) throw refusal(`${name}: ${error.message}`);
      throw error;
    }
    this.#sums.push(`${hash.digest('hex')}  ${name}\n`);
  }
}

async function unpack(
  archive: Archive,
  manifest: Manifest,
  folder: string,
  name: string,
): Promise<{ readonly settings: VmSettings; readonly left: readonly string[] }> {
  const asked = parseVmIni(await archive.text(VM_INI), VM_INI);
  const { settings, left } = ownSettings(asked, manifest);
  if (settings.boot.kernel !== undefined) await unpackFile(archive, KERNEL, BOOT_LIMIT, folder);
  if (settings.boot.initrd !== undefined) await unpackFile(archive, INITRD, BOOT_LIMIT, folder);
  const disks: { disk: number; layer: string }[] = [];
  for (const [disk, { file, readOnly }] of settings.disks.entries()) {
    const size = manifest.disks[disk]!;
    if (readOnly) {
      await unpackDisk(archive, diskEntry(disk), size, join(folder, file), 'raw');
      continue;
    }
    const layer = newLayerId();
    await unpackDisk(archive, diskEntry(disk), size, join(folder, layerFile(layer)), 'qcow2');
    chmodSync(join(folder, layerFile(layer)), FROZEN_MODE);
    await createOverlay(join(folder, file), { name: layerFile(layer), format: 'qcow2' }, { frozen: true });
    disks.push({ disk, layer });
  }
  const { snapshot } = manifest;
  mkdirSync(join(folder, SNAPSHOTS), { mode: 0o700 });
  const own = join(folder, SNAPSHOTS, snapshot.name);
  mkdirSync(own, { mode: 0o700 });
  if (snapshot.memory) await unpackMemory(archive, manifest, own);
  await archive.finish();
  writeFileSync(join(own, VM_INI), formatVmIni(settings, name), { mode: 0o600, flush: true });
  const record: SnapshotRecord = { ...snapshot, parent: undefined, disks };
  writeSnapshot(own, record);
  setCurrent(folder, record.id);
  if (record.memory) linkMachine(own, join(folder, RESUME));
  return { settings, left };
}

async function unpackMemory(archive: Archive, { memory, snapshot }: Manifest, own: string): Promise<void> {
  await unpackFile(archive, STATE_FILE, STATE_LIMIT, own);
  if (digestOf(join(own, STATE_FILE)) !== snapshot.state)
    throw refusal(`${STATE_FILE} has another checksum than it had`);
  const { layers } = readState(join(own, STATE_FILE)).memory;
  for (const { name, size } of memory) {
    const file = await open(join(own, name), 'wx', FROZEN_MODE);
    try {
      await file.truncate(size);
      await archive.sparse(name, size, 1, (bytes, at) => writeAll(file, bytes, at));
      await file.sync();
    } finally {
      await file.close();
    }
  }
  const missing = layers.find(({ file }) => !memory.some(({ name }) => name === file));
  if (missing !== undefined) throw refusal(`it has no ${missing.file}, which ${STATE_FILE} names`);
  createTouched(own);
}

type Handle = Awaited<ReturnType<typeof open>>;

async function writeAll(file: Handle, bytes: Buffer, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;)
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
}

async function unpackFile(archive: Archive, name: string, limit: number, folder: string): Promise<void> {
  const file = await open(join(folder, name), 'wx', FROZEN_MODE);
  try {
    await archive.plain(name, limit, (bytes, at) => writeAll(file, bytes, at));
    await file.sync();
  } finally {
    await file.close();
  }
}

async function unpackDisk(
  archive: Archive,
  name: string,
  size: number,
  path: string,
  format: 'raw' | 'qcow2',
): Promise<void> {
  await createDisk(path, { format, size });
  const ring = new IoRing();
  try {
    const disk = new PromisedDisk(await openDisk(ring, { path, format }), ring);
    try {
      const writer = new SectorWriter(disk);
      await archive.sparse(name, size, SECTOR, (bytes, at) => writer.write(bytes, at));
      await writer.end();
      await disk.flush();
    } finally {
      await disk.close();
    }
  } finally {
    ring.close();
  }
}

/** Pieces are cut anywhere, and disks written to in sectors, which extents are whole ones of. */
class SectorWriter {
  readonly #disk: PromisedDisk;
  readonly #buffer: ReturnType<PromisedDisk['buffer']>;
  #start = 0;
  #length = 0;

  constructor(disk: PromisedDisk) {
    this.#disk = disk;
    this.#buffer = disk.buffer(PIECE);
  }

  async write(bytes: Buffer, at: number): Promise<void> {
    if (at !== this.#start + this.#length) {
      await this.end();
      this.#start = at;
    }
    for (let done = 0; done < bytes.length;) {
      const piece = bytes.subarray(done, done + PIECE - this.#length);
      this.#buffer.bytes.set(piece, this.#length);
      this.#length += piece.length;
      done += piece.length;
      if (this.#length === PIECE) await this.end();
    }
  }

  async end(): Promise<void> {
    if (this.#length > 0) await this.#disk.write(this.#start, this.#buffer, this.#length);
    this.#start += this.#length;
    this.#length = 0;
  }
}

/**
 * What of the settings is the guest's own. What leads to files, networks and rights of this host is left out; files of
 * the VM get names in its folder.
 * @throws SnapshotError where what ran could not go on without what is left out
 */
function ownSettings(
  { vm, boot, disks, network, shares }: VmSettings,
  { snapshot, disks: sizes }: Manifest,
): { readonly settings: VmSettings; readonly left: readonly string[] } {
  if (disks.length !== sizes.length) throw refusal('its settings have other disks than its manifest');
  const { image, user, memory, cpus, cpu, console, transport, balloon, identity } = vm;
  const cards = network.cards.filter((card) => !isOfHost(card));
  const left = [
    ...shares.map((share) => `shared folder ${share}`),
    ...network.cards.filter(isOfHost).map((card) => `network card ${card}`),
    ...network.publish.map((port) => `published port ${port}`),
    ...(vm.jail === 'off' ? ['jail = off'] : []),
    ...(network.hostAccess ? ['host-access = yes'] : []),
  ];
  if (snapshot.memory && (shares.length > 0 || cards.length < network.cards.length))
    throw refusal(`what ran needs what is of another host: ${left.join(', ')}`);
  const settings: VmSettings = {
    vm: {
      ...{ memory, cpus, console, transport, balloon, jail: 'on' },
      ...(cpu !== undefined && { cpu }),
      ...(image !== undefined && { image }),
      ...(user !== undefined && { user }),
      ...(identity !== undefined && { identity }),
    },
    boot: {
      ...(boot.kernel !== undefined && { kernel: KERNEL }),
      ...(boot.initrd !== undefined && { initrd: INITRD }),
      ...(boot.cmdline !== undefined && { cmdline: boot.cmdline }),
    },
    disks: disks.map(ownDisk),
    network: { cards, publish: [], hostAccess: false },
    shares: [],
  };
  return { settings, left };
}

function ownDisk({ readOnly, cache, serial }: DiskSettings, disk: number): DiskSettings {
  return {
    file: readOnly ? `disk${disk}.img` : disk === 0 ? 'root.qcow2' : `disk${disk}.qcow2`,
    format: readOnly ? 'raw' : 'qcow2',
    trustBacking: false,
    readOnly,
    cache,
    ...(serial !== undefined && { serial }),
  };
}
