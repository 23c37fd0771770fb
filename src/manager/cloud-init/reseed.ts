import { withGuestDisk } from '../../storage/guest-fs/guest-disk.ts';
import { FAT_CAPACITY } from './fat.ts';
import { seedDisk } from './seed.ts';
import { toYaml, type Yaml } from './yaml.ts';

const META_DATA = 'meta-data';

/**
 * The seed of another instance: all as it was, but for who it is.
 * @param path of a seed that was made by {@link makeSeed}
 * @returns bytes of a disk of the same size; undefined where the file is no such seed
 */
export async function reseed(
  path: string,
  { hostname, instanceId }: { readonly hostname: string; readonly instanceId: string },
): Promise<Uint8Array | undefined> {
  const files = await filesOf(path);
  const meta = files?.[META_DATA] && metaOf(files[META_DATA]);
  if (files === undefined || meta === undefined) return undefined;
  const changed = toYaml({ ...meta, 'instance-id': instanceId, 'local-hostname': hostname });
  return seedDisk(instanceId, { ...files, [META_DATA]: Buffer.from(changed) });
}

async function filesOf(path: string): Promise<Record<string, Uint8Array> | undefined> {
  try {
    return await withGuestDisk({ path, format: 'raw' }, async ({ volumes }) => {
      const [volume] = volumes;
      if (volume === undefined) return undefined;
      const fs = await volume.open();
      const files: Record<string, Uint8Array> = {};
      for (const name of await fs.list('/')) files[name] = await fs.readFile(`/${name}`, FAT_CAPACITY);
      return files;
    });
  } catch {
    return undefined;
  }
}

/** Meta data is YAML that is JSON, but for the escapes of what JSON writes as two. */
function metaOf(bytes: Uint8Array): Readonly<Record<string, Yaml | undefined>> | undefined {
  const text = Buffer.from(bytes)
    .toString('utf8')
    .replaceAll(/\\(?:U([0-9a-f]{8})|([^]))/g, (all: string, point: string | undefined) =>
      point === undefined ? all : String.fromCodePoint(Math.min(Number.parseInt(point, 16), 0x10ffff)),
    );
  try {
    const meta = JSON.parse(text) as Yaml;
    return typeof meta === 'object' && meta !== null && 'instance-id' in meta ? { ...meta } : undefined;
  } catch {
    return undefined;
  }
}
