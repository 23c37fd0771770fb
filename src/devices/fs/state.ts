import { readlinkSync } from 'node:fs';
import * as v from 'valibot';
import { checkState, DeviceStateError, unsigned } from '../../kvm/device-state.ts';
import { FolderReader, Handle } from './handles.ts';
import { Node } from './nodes.ts';
import { O, S_IFDIR, S_IFREG } from './protocol.ts';
import type { FuseServer } from './server.ts';

const word = unsigned(0xffff_ffff);
const index = unsigned(2 ** 24);

const schema = v.strictObject({
  /** what was agreed on at INIT; null where nothing is mounted */
  session: v.nullable(v.strictObject({ minor: word, flags: v.number(), flags2: v.number() })),
  /** index, generation, lookups, type, names from the folder down; no names: the file has none any more */
  nodes: v.array(
    v.strictTuple([index, word, unsigned(Number.MAX_SAFE_INTEGER), word, v.nullable(v.array(v.string()))]),
  ),
  /** index, generation, index of its node, flags of open(2) */
  handles: v.array(v.strictTuple([index, word, index, word])),
});

export type FsState = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkFsState(device: string, data: unknown): FsState {
  return checkState(device, schema, data);
}

/**
 * Files by the names that they have now: a machine that goes on later, or elsewhere, opens them again. Names are kept
 * byte for byte, as latin1.
 */
export function saveServer(server: FuseServer): FsState {
  const top = pathOf(server.folder.fd);
  return {
    session: server.session ?? null,
    nodes: [...server.nodes.all()].map((node) => [
      node.index,
      node.generation,
      node.lookups,
      node.type,
      namesOf(top, node),
    ]),
    handles: [...server.handles.all()].map(({ index: at, generation, node, flags }) => [
      at,
      generation,
      node.index,
      flags,
    ]),
  };
}

function pathOf(fd: number): string {
  return readlinkSync(`/proc/self/fd/${fd}`, 'latin1');
}

function namesOf(top: string, node: Node): string[] | null {
  if (node.fd < 0) return null;
  const path = pathOf(node.fd);
  const prefix = top === '/' ? top : `${top}/`;
  return path.startsWith(prefix) ? path.slice(prefix.length).split('/') : null;
}

/**
 * Opens the files again. One that is not there any more, or is of another kind, gives ESTALE to whoever uses it.
 * @throws DeviceStateError for numbers that cannot be
 */
export function restoreServer(device: string, server: FuseServer, state: FsState): void {
  const { nodes, handles } = server;
  const fail = (what: string): never => {
    throw new DeviceStateError(`state of ${device}: ${what}`);
  };
  server.end();
  if (state.session !== null) server.begin(state.session);
  const byIndex = new Map<number, Node>([[nodes.root.index, nodes.root]]);
  for (const [at, generation, lookups, type, names] of state.nodes) {
    if (!nodes.isFree(at) || lookups === 0) fail(`a node ${at} that cannot be`);
    const found = names === null ? undefined : server.find(names, type);
    const node = new Node(
      at,
      generation,
      found?.fd ?? -1,
      type,
      found?.device ?? -1,
      found?.inode ?? `${at}`,
    );
    byIndex.set(at, nodes.place(node, lookups));
  }
  nodes.settle();
  for (const [at, generation, nodeIndex, flags] of state.handles) {
    const node = byIndex.get(nodeIndex);
    if (node === undefined || !handles.isFree(at) || generation === 0)
      return fail(`a handle ${at} that cannot be`);
    const folder = (flags & O.directory) !== 0;
    if (node.type !== (folder ? S_IFDIR : S_IFREG)) fail(`a handle ${at} of another kind than its file`);
    const host = folder ? O.directory : flags & (O.accessMode | O.dataSync | O.sync);
    const fd = server.reopen(node, server.folder.readOnly ? host & ~O.accessMode : host);
    handles.place(new Handle(at, generation, fd, node, host, folder ? new FolderReader() : undefined));
  }
  handles.settle();
}
