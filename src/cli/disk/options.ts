/** Options and arguments that several of the disk commands have. */
import { type Command, Option } from 'commander';

import { parseSize, SizeError } from '../../manager/sizes.ts';
import { argument, collect } from '../verb.ts';
import type { DiskFormat } from '../../storage/open.ts';
import type { SourceImage } from '../../storage/tools.ts';
import type { ChainPolicy } from '../../storage/qcow2/chain.ts';

export const FORMATS = ['raw', 'qcow2'] as const;

export type BackingFlags = { readonly trustBacking?: true; readonly backingFolder?: readonly string[] };

/** The options that say which backing files may be used. */
export function addBackingPolicy(command: Command): Command {
  return command
    .option('--trust-backing', 'use backing files wherever they are')
    .option('--backing-folder <folder>', 'use backing files in this folder too; may be given again', collect);
}

export function policyOf({ trustBacking, backingFolder }: BackingFlags): ChainPolicy {
  return {
    ...(trustBacking !== undefined && { trusted: true }),
    ...(backingFolder !== undefined && { folders: backingFolder }),
  };
}

export function formatOption(flags: string, description: string): Option {
  return new Option(flags, description).choices(FORMATS);
}

/** Of an image that exists. */
export function addFormat(command: Command): Command {
  return command.addOption(formatOption('-f, --format <format>', 'format of the image (default: raw)'));
}

/** The image of `file`, as the flags say what it is. */
export function sourceOf(path: string, flags: FormatFlags & BackingFlags): SourceImage {
  return { path, backing: policyOf(flags), ...(flags.format !== undefined && { format: flags.format }) };
}

export type FormatFlags = { readonly format?: DiskFormat };

const SECTOR = 512;

/** Bytes of a disk: as other sizes, or `4096B`. @throws RangeError, SizeError */
export function parseDiskSize(text: string): number {
  const bytes = /^(\d+) ?B$/i.exec(text.trim())?.[1];
  if (bytes === undefined) return parseSize(text);
  const size = Number(bytes);
  if (!Number.isSafeInteger(size)) throw new SizeError('too large');
  if (size === 0 || size % SECTOR !== 0) throw new SizeError(`not a multiple of ${SECTOR} bytes`);
  return size;
}

export const diskSize = argument(parseDiskSize);

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
