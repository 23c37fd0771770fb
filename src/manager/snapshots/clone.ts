/** New VMs that go on from where another one was. */
import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync, linkSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import { createOverlay } from '../../storage/tools.ts';
import { formatMacAddress, macAddressFor } from '../../devices/net/mac-address.ts';
import { reseed } from '../cloud-init/reseed.ts';
import { parseNet } from '../options/net-options.ts';
import { copySparsely } from '../sparse-copy.ts';
import { CLONE, layerFile, RESUME, VM_INI } from '../vms/files.ts';
import { whileVmLocked } from '../vms/folder-lock.ts';
import type { Identity } from '../vmm/identity.ts';
import { checkVmName } from '../vms/name.ts';
import type { DiskSettings, VmSettings } from '../vms/settings.ts';
import { VmStoreError, type VmStore } from '../vms/store.ts';
import { readVmIni } from '../vms/vm-ini.ts';
import { stagingFolder, takeInto } from './create.ts';
import { LayerMap } from './layers.ts';
import { readSnapshot, snapshotFolder, type SnapshotRecord } from './record.ts';
import { recover } from './recover.ts';
import { checkSnapshot, linkMachine } from './restore.ts';
import { collect, getSnapshot } from './store.ts';

/** What is cloned: a VM as it is now, or as it was at a snapshot. */
export type CloneSource = { readonly name: string; readonly snapshot?: string };

/** `NAME` or `NAME@SNAPSHOT` */
export function parseCloneSource(text: string): CloneSource {
  const [name = '', snapshot, ...rest] = text.split('@');
  if (rest.length > 0) throw new RangeError(`'${text}' is neither a VM nor VM@SNAPSHOT`);
  return { name, ...(snapshot !== undefined && { snapshot }) };
}

/** `web-1`, `web-2`, … of `web`; of one, the name itself. */
export const cloneNames = (name: string, count?: number): string[] =>
  count === undefined ? [name] : Array.from({ length: count }, (_, i) => `${name}-${i + 1}`);

/**
 * Makes VMs that go on from where another one is, or was at a snapshot: disks are laid over what both have then, and
 * memory is one file for all of them. One that runs goes on. Each new VM is another one for its guest: see identity.ts.
 * @throws VmStoreError, SnapshotError, StorageError, ControlError; those that are there stay then
 */
export async function cloneVm(store: VmStore, source: CloneSource, names: readonly string[]): Promise<void> {
  const folder = store.folderOf(source.name);
  for (const name of names) checkVmName(name);
  const taken = names.find((name, i) => store.names().includes(name) || names.indexOf(name) !== i);
  if (taken !== undefined)
    throw new VmStoreError('EEXIST', `there is a VM '${taken}' already`, 'choose another name');
  await whileVmLocked(folder, async () => {
    recover(folder);
    if (source.snapshot !== undefined) {
      const record = getSnapshot(store, source.name, source.snapshot);
      await checkSnapshot(folder, source.name, record);
      await cloneFrom(store, folder, snapshotFolder(folder, record.name), record, names);
      return;
    }
    const staging = stagingFolder(folder, 'clone');
    try {
      await takeInto(store, source.name, staging, { name: 'clone' });
      await cloneFrom(store, folder, staging, readSnapshot(staging, 'for clones'), names);
    } finally {
      await rm(staging, { recursive: true, force: true });
      await collect(folder, store.status(source.name).state === 'running');
    }
  });
}

/** @param own the snapshot's folder */
async function cloneFrom(
  store: VmStore,
  folder: string,
  own: string,
  record: SnapshotRecord,
  names: readonly string[],
): Promise<void> {
  const source = { folder, own, record, map: await LayerMap.read(folder) };
  for (const name of names) await store.create(name, (target) => layClone(target, name, source));
}

/** A snapshot, and where its layers are. */
export type CloneFiles = {
  /** with layers, and other files that the VM's settings name */
  readonly folder: string;
  /** the snapshot's folder */
  readonly own: string;
  readonly record: SnapshotRecord;
  readonly map: LayerMap;
  /** whether its guest is to ask for its addresses again, which may be others by then; default true */
  readonly renews?: boolean;
};

/** Fills the folder of a new VM that goes on from a snapshot. @returns its settings */
export async function layClone(
  target: string,
  name: string,
  { folder, own, record, map, renews = true }: CloneFiles,
): Promise<VmSettings> {
  const settings = readVmIni(join(own, VM_INI));
  const identity = newIdentity(name, settings, record.memory, renews);
  await cloneDisks(folder, target, settings, record, map);
  await cloneOthers(folder, target, settings, identity);
  if (record.memory) linkMachine(own, join(target, RESUME));
  for (const where of record.memory ? [target, join(target, RESUME)] : [target])
    writeFileSync(join(where, CLONE), `${JSON.stringify(identity)}\n`, { mode: 0o600, flush: true });
  return settingsOf(name, settings, record.memory);
}

async function cloneDisks(
  folder: string,
  target: string,
  settings: VmSettings,
  record: SnapshotRecord,
  map: LayerMap,
): Promise<void> {
  for (const { disk, layer } of record.disks) {
    for (const file of map.chain(layerFile(layer))) await linkOrCopy(join(folder, file), join(target, file));
    const { file, trustBacking } = settings.disks[disk]!;
    await createOverlay(
      join(target, file),
      { name: layerFile(layer), format: 'qcow2' },
      { trusted: trustBacking, frozen: true },
    );
  }
}

/** Files that nobody writes to: in the VM's folder they are called by their names alone. */
async function cloneOthers(
  folder: string,
  target: string,
  settings: VmSettings,
  identity: Identity,
): Promise<void> {
  const others = unwrittenFiles(settings);
  for (const { file } of settings.disks.filter(isSeed).filter(({ file }) => others.includes(file))) {
    const seed = await reseed(join(folder, file), identity);
    if (seed !== undefined) writeFileSync(join(target, file), seed, { mode: 0o600, flush: true });
  }
  for (const file of others) await linkOrCopy(join(folder, file), join(target, file));
}

/** Files in a VM's folder, besides layers, that settings name and nobody writes to. */
export function unwrittenFiles({ disks, boot }: VmSettings): string[] {
  const isOwn = (file: string | undefined): file is string => file !== undefined && basename(file) === file;
  const readOnly = disks.filter((disk) => disk.readOnly).map(({ file }) => file);
  return [...readOnly, boot.kernel, boot.initrd].filter(isOwn);
}

const isSeed = ({ readOnly, format }: DiskSettings): boolean => readOnly && format === 'raw';

/** The same file by another name; a copy where it would be on another file system, or has too many names. */
export async function linkOrCopy(from: string, to: string): Promise<void> {
  if (existsSync(to)) return;
  try {
    linkSync(from, to);
  } catch (error) {
    const code = systemCode(error) ?? '';
    if (!['EXDEV', 'EMLINK', 'EPERM', 'EOPNOTSUPP'].includes(code)) throw error;
    await copySparsely(from, to);
  }
}

function newIdentity(name: string, settings: VmSettings, memory: boolean, renews: boolean): Identity {
  return {
    hostname: name,
    machineId: randomBytes(16).toString('hex'),
    instanceId: `tsvm-${randomUUID()}`,
    addresses: memory
      ? cardsOf(name, settings).flatMap(({ change }) => (change === undefined ? [] : [change]))
      : [],
    boots: !memory,
    renews,
  };
}

type Card = {
  /** as vm.ini has it */
  readonly text: string;
  readonly change: Identity['addresses'][number] | undefined;
};

/**
 * The cards of a clone. One on a network of its own may keep its address, which the guest has in its memory; on one
 * that others are on too it gets another.
 */
function cardsOf(name: string, { vm, network }: VmSettings): Card[] {
  let index = 0;
  return network.cards.map((text) => {
    const choice = parseNet(text);
    if (choice === 'none') return { text, change: undefined };
    const own = choice.kind === 'vmnet-uplink' ? choice.vmnet : choice;
    const at = index;
    index += choice.kind === 'vmnet-uplink' ? 2 : 1;
    const from = own.mac ?? formatMacAddress(macAddressFor(vm.identity ?? '', at));
    if (choice.kind === 'user') return { text: withMac(text, own.mac), change: undefined };
    const to = formatMacAddress(macAddressFor(name, at));
    return { text: withMac(text, to), change: { from, to } };
  });
}

/** Without the address that it has, and without what it is called there. */
function withMac(text: string, mac: string | undefined): string {
  const words = text.split(',').filter((word) => !/^(mac|name)=/.test(word));
  return [...words, ...(mac === undefined ? [] : [`mac=${mac}`])].join(',');
}

function settingsOf(name: string, settings: VmSettings, memory: boolean): VmSettings {
  const { identity, ...vm } = settings.vm;
  const { cards } = settings.network;
  return {
    ...settings,
    vm: { ...vm, ...(memory && identity !== undefined && { identity }) },
    network: {
      ...settings.network,
      cards: memory
        ? cardsOf(name, settings).map(({ text }) => text)
        : cards.map((text) => withMac(text, undefined)),
      // These lead to the other VM.
      publish: [],
    },
  };
}
