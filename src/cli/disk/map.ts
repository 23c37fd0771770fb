import type { Command } from 'commander';

import type { DiskExtent } from '../../storage/qcow2/map.ts';
import { printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import { addBackingPolicy, addFormat, sourceOf, type BackingFlags, type FormatFlags } from './options.ts';

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
      const { diskMap } = await import('../../storage/tools.ts');
      await (flags.json ? printJsonExtents : printTable)(diskMap(sourceOf(file, flags)));
      done(EXIT.ok);
    });
}

/** One extent a line, as they come: a large disk has millions. */
async function printJsonExtents(extents: AsyncIterable<DiskExtent>): Promise<void> {
  let separator = '[';
  for await (const extent of extents) {
    await print(`${separator}${JSON.stringify(extent)}`);
    separator = ',\n';
    if (process.stdout.destroyed) return;
  }
  await print(separator === '[' ? '[]\n' : ']\n');
}

async function printTable(extents: AsyncIterable<DiskExtent>): Promise<void> {
  const row = (...cells: string[]): string =>
    `${cells
      .map((cell) => cell.padEnd(16))
      .join(' ')
      .trimEnd()}\n`;
  const hex = (value: number): string => `0x${value.toString(16)}`;
  // With the first extent: nothing is printed where the image cannot be opened.
  let heading = row('start', 'length', 'kind', 'offset', 'file');
  for await (const { start, length, kind, offset, path } of extents) {
    const where = offset === undefined ? '' : hex(offset);
    const line = row(hex(start), hex(length), kind, where, kind === 'none' ? '' : printable(path));
    await print(heading + line);
    heading = '';
    if (process.stdout.destroyed) return;
  }
  await print(heading);
}

/** Waits where the reader is slow. Where there is none any more, it returns at once, and main tells. */
function print(text: string): Promise<void> {
  return new Promise((resolve) => {
    if (process.stdout.write(text, () => resolve())) resolve();
  });
}
