/** Builds the full system image, or finds it in the cache, and prints where its files are as JSON. */
import { Command, InvalidArgumentError } from 'commander';
import { readFile } from 'node:fs/promises';
import { importImage } from '../../src/manager/images/import.ts';
import { managerPaths } from '../../src/manager/paths.ts';
import { DebianError } from './cache.ts';
import { buildDebian } from './system.ts';

const UNITS = { M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 } as const;

function bytes(text: string): number {
  const match = /^(\d+)([MGT])$/.exec(text);
  if (match === null) throw new InvalidArgumentError('needs a number and a unit, e.g. 4G.');
  return Number(match[1]) * UNITS[match[2] as keyof typeof UNITS];
}

const command = new Command('build')
  .description('Builds a Debian system image with its kernel and initramfs, or finds it in the cache.')
  .option('--size <size>', 'size of the disk as the guest sees it, e.g. 8G (default: 4G)', bytes)
  .option('--package <name...>', 'Debian packages to install besides the usual ones')
  .option('--authorized-keys <file>', 'SSH public keys that may log in as root')
  .option('--versions <file>', 'packages.txt of an earlier build: take just these versions')
  .option('--refresh', 'take the newest packages, also where there is an image already')
  .option('--import [name]', "put it among tsvm's images, by this name (default: debian:built)")
  .parse();
const {
  size,
  package: packages,
  authorizedKeys,
  versions,
  refresh,
  import: importAs,
} = command.opts<{
  size?: number;
  package?: string[];
  authorizedKeys?: string;
  versions?: string;
  refresh?: boolean;
  import?: string | true;
}>();

try {
  const keys = authorizedKeys === undefined ? [] : (await readFile(authorizedKeys, 'utf8')).split('\n');
  const system = await buildDebian({
    ...(size === undefined ? {} : { diskSize: size }),
    ...(versions === undefined ? {} : { versions }),
    packages: packages ?? [],
    authorizedKeys: keys.map((key) => key.trim()).filter((key) => key !== '' && !key.startsWith('#')),
    refresh: refresh ?? false,
  });
  if (importAs === undefined) console.log(JSON.stringify(system, undefined, 2));
  else {
    const image = await importImage(managerPaths(), system.disk, {
      name: importAs === true ? 'debian:built' : importAs,
      title: 'Debian 12, built from packages',
      format: 'raw',
      kernel: system.kernel,
      initrd: system.initrd,
      cmdline: system.cmdline,
      agent: 'included',
    });
    console.log(JSON.stringify(image, undefined, 2));
  }
} catch (error) {
  if (!(error instanceof DebianError || error instanceof RangeError)) throw error;
  console.error(`tsvm: ${error.message}`);
  process.exitCode = 1;
}
