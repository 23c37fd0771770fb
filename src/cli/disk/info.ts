import type { Command } from 'commander';

import type { DiskFormat } from '../../storage/open.ts';
import type { ImageInfo, Qcow2Info } from '../../storage/qcow2/info.ts';
import { printable } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';
import { addBackingPolicy, formatOption, policyOf, printJson, type BackingFlags } from './options.ts';

type InfoFlags = BackingFlags & {
  readonly format?: DiskFormat;
  readonly chain?: true;
  readonly forceShare?: true;
  readonly json?: true;
};

const EXAMPLES = [
  'tsvm disk info debian.qcow2',
  'tsvm disk info --chain vm1.qcow2',
  'tsvm disk info --json debian.qcow2 | jq .virtualSize',
];

const HELP = `
Only here the format may be left out, as nothing is done with the image: it is told what it looks like.`;

/** `tsvm disk info`: what an image says of itself. */
export function addInfo(disk: Command, done: Done): void {
  const info = addVerb(disk, 'info', 'show what an image is', EXAMPLES)
    .argument('<file>', 'image to look at')
    .addOption(formatOption('-f, --format <format>', 'format of the image (default: what it looks like)'))
    .option('--chain', 'show its backing files too, the image first')
    .option('-U, --force-share', 'look although somebody may be writing to it');
  addBackingPolicy(info)
    .option('--json', 'print a JSON object; with --chain, an array of them')
    .addHelpText('after', HELP)
    .action(async (file: string, flags: InfoFlags) => {
      const { diskInfo } = await import('../../storage/tools.ts');
      const { looksLikeQcow2 } = await import('../../storage/open.ts');
      const format = flags.format ?? (looksLikeQcow2(file) ? 'qcow2' : 'raw');
      const layers = await diskInfo(
        { path: file, format, backing: policyOf(flags) },
        { chain: flags.chain === true, share: flags.forceShare === true },
      );
      if (flags.json) printJson(flags.chain ? layers : layers[0]);
      else process.stdout.write(layers.map(describe).join('\n'));
      done(EXIT.ok);
    });
}

function describe(info: ImageInfo): string {
  const { path, format, virtualSize, fileSize, allocatedSize, qcow2 } = info;
  const rows: (readonly [string, string])[] = [
    ['image', printable(path)],
    ['format', qcow2 === undefined ? format : `${format}, version ${qcow2.version}`],
    ['disk size', `${formatSize(virtualSize)} (${virtualSize} bytes)`],
    ['file size', `${formatSize(fileSize)}, ${formatSize(allocatedSize)} of it allocated on the host`],
    ...(qcow2 === undefined ? [] : qcow2Rows(qcow2)),
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${`${name}:`.padEnd(width + 1)} ${value}\n`).join('');
}

function qcow2Rows(info: Qcow2Info): (readonly [string, string])[] {
  const { backingFile, backingFormat = 'format not recorded', snapshots, bitmaps } = info;
  const features = [
    ...(info.extendedL2 ? ['extended L2'] : []),
    ...(info.lazyRefcounts ? ['lazy refcounts'] : []),
    ...(bitmaps > 0 ? [`${bitmaps} dirty bitmaps`] : []),
  ];
  const state = [
    ...(info.dirty ? ['not closed: `tsvm disk check --repair` counts its refcounts anew'] : []),
    ...(info.corrupt ? ['marked as corrupt: `tsvm disk check --repair` may mend it'] : []),
  ];
  return [
    ['clusters', `${formatSize(info.clusterSize)}, ${info.refcountBits}-bit refcounts, ${info.compression}`],
    ...(features.length === 0 ? [] : [['features', features.join(', ')] as const]),
    ...(state.length === 0 ? [] : [['state', state.join('; ')] as const]),
    ...(backingFile === undefined
      ? []
      : [['backing file', `${printable(backingFile)} (${printable(backingFormat)})`] as const]),
    ...snapshots.map(({ name }) => ['snapshot', printable(name)] as const),
  ];
}
