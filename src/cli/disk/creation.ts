/** Options of new images, for `create` and `convert`. */
import { type Command, Option } from 'commander';

import type { Preallocation } from '../../storage/fill-space.ts';
import type { CreateOptions } from '../../storage/qcow2/create.ts';
import { UsageError } from '../errors.ts';
import { argument } from '../verb.ts';
import { parseDiskSize } from './options.ts';

export type CreationFlags = {
  readonly compat?: '0.10' | '1.1';
  readonly clusterSize?: number;
  readonly refcountBits?: number;
  readonly extendedL2?: true;
  readonly compressionType?: 'zlib' | 'zstd';
  readonly lazyRefcounts?: true;
  readonly preallocation?: Preallocation;
  readonly force?: true;
};

const REFCOUNT_BITS = ['1', '2', '4', '8', '16', '32', '64'];

export function addCreationOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--compat <version>', 'qcow2: 1.1 is version 3, 0.10 version 2 (default: 1.1)').choices([
        '0.10',
        '1.1',
      ]),
    )
    .option(
      '--cluster-size <size>',
      'qcow2: 512B to 2M, a power of two (default: 64K)',
      argument(parseDiskSize),
    )
    .addOption(
      new Option('--refcount-bits <n>', 'qcow2: width of reference counts (default: 16)')
        .choices(REFCOUNT_BITS)
        .argParser(refcountBits),
    )
    .option('--extended-l2', 'qcow2: allocate 32nds of clusters, of 16K at least')
    .addOption(
      new Option('--compression-type <type>', 'qcow2: of compressed clusters (default: zlib)').choices([
        'zlib',
        'zstd',
      ]),
    )
    .option('--lazy-refcounts', 'qcow2: faster flushes; a crash is followed by a check')
    .addOption(
      new Option(
        '--preallocation <mode>',
        'space to set aside: metadata is for qcow2 (default: off)',
      ).choices(['off', 'metadata', 'falloc', 'full']),
    )
    .option('--force', 'replace a file of this name that nobody uses');
}

const refcountBits = argument((text) => {
  if (!REFCOUNT_BITS.includes(text)) throw new RangeError(`not one of ${REFCOUNT_BITS.join(', ')}`);
  return Number(text);
});

/** What the flags say of a qcow2 image. */
export function qcow2Options(flags: CreationFlags): Omit<CreateOptions, 'size'> {
  const { compat, clusterSize, refcountBits, extendedL2, compressionType, lazyRefcounts, preallocation } =
    flags;
  return {
    ...(compat !== undefined && { version: compat === '1.1' ? 3 : 2 }),
    ...(clusterSize !== undefined && { clusterSize }),
    ...(refcountBits !== undefined && { refcountBits }),
    ...(extendedL2 !== undefined && { extendedL2 }),
    ...(compressionType !== undefined && { compression: compressionType }),
    ...(lazyRefcounts !== undefined && { lazyRefcounts }),
    ...(preallocation !== undefined && { preallocation }),
  };
}

const QCOW2_FLAGS = [
  ['compat', '--compat'],
  ['clusterSize', '--cluster-size'],
  ['refcountBits', '--refcount-bits'],
  ['extendedL2', '--extended-l2'],
  ['compressionType', '--compression-type'],
  ['lazyRefcounts', '--lazy-refcounts'],
] as const;

/** How a raw disk's space is set aside. @throws UsageError where a flag is for qcow2 only */
export function rawPreallocation(flags: CreationFlags): 'off' | 'falloc' | 'full' {
  const { preallocation = 'off' } = flags;
  const foreign = QCOW2_FLAGS.find(([key]) => flags[key] !== undefined);
  if (foreign !== undefined || preallocation === 'metadata') {
    const name = foreign?.[1] ?? '--preallocation metadata';
    throw new UsageError(`${name} is for qcow2 images`, 'leave it out, or choose the format qcow2');
  }
  return preallocation;
}
