import type { Command } from 'commander';

import type { DiskExtent } from '../../storage/qcow2/map.ts';
import { printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import {
  addBackingPolicy,
  addFormat,
  policyOf,
  withRing,
  type BackingFlags,
  type FormatFlags,
} from './options.ts';

type MapFlags = FormatFlags & BackingFlags & { readonly json?: true };

const EXAMPLES = [
  'tsvm disk map --format qcow2 vm1.qcow2',
  'tsvm disk map --format raw --json data.raw | jq length',
];

const HELP = `
Offsets and lengths are bytes. Depth 0 is the image itself, 1 its backing file, and so on. Kinds are data, compressed,
zero, and none, which no file has and which reads as zeros.`;

/** `tsvm disk map`: where the contents of a disk are. */
export function addMap(disk: Command, done: Done): void {
  const map = addVerb(
    disk,
    'map',
    'show where the contents of a disk are, through all layers',
    EXAMPLES,
  ).argument('<file>', 'image');
  addBackingPolicy(addFormat(map))
    .option('--json', 'print a JSON array')
    .addHelpText('after', HELP)
    .action(async (file: string, flags: MapFlags) => {
      const { format } = flags;
      await withRing(async (ring) => {
        const { openDisk } = await import('../../storage/open.ts');
        const { mapDisk } = await import('../../storage/qcow2/map.ts');
        const image = await openDisk(ring, {
          path: file,
          readOnly: true,
          backing: policyOf(flags),
          ...(format && { format }),
        });
        try {
          await (flags.json ? printJsonExtents : printTable)(mapDisk(image));
        } finally {
          await image.close();
        }
      });
      done(EXIT.ok);
    });
}

/** One extent a line, as they come: a large disk has millions. */
async function printJsonExtents(extents: AsyncIterable<DiskExtent>): Promise<void> {
  let separator = '[';
  for await (const extent of extents) {
    await print(`${separator}${JSON.stringify(extent)}`);
    separator = ',\n';
  }
  await print(separator === '[' ? '[]\n' : ']\n');
}

async function printTable(extents: AsyncIterable<DiskExtent>): Promise<void> {
  const row = (...cells: string[]): string =>
    `${cells
      .map((cell, i) => (i < 4 ? cell.padEnd(16) : cell))
      .join(' ')
      .trimEnd()}\n`;
  await print(row('start', 'length', 'kind', 'offset', 'file'));
  for await (const { start, length, kind, offset, path } of extents) {
    const hex = (value: number): string => `0x${value.toString(16)}`;
    await print(
      row(
        hex(start),
        hex(length),
        kind,
        offset === undefined ? '' : hex(offset),
        kind === 'none' ? '' : printable(path),
      ),
    );
  }
}

function print(text: string): Promise<void> | undefined {
  if (process.stdout.write(text)) return undefined;
  return new Promise((resolve) => {
    process.stdout.once('drain', resolve);
    // Nobody reads it any more: main tells, when all is done.
    process.stdout.once('error', () => resolve());
  });
}
