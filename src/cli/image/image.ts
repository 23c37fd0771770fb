import type { Command } from 'commander';

import { addVerb, type Done } from '../verb.ts';
import { addBuild } from './build.ts';
import { addImport } from './import.ts';
import { addInfo } from './info.ts';
import { addList } from './list.ts';
import { addPrune } from './prune.ts';
import { addPull } from './pull.ts';
import { addRemove } from './remove.ts';

const EXAMPLES = [
  'tsvm image pull ubuntu',
  'tsvm image ls --all',
  'tsvm image import --name mine debian.qcow2',
  'tsvm image rm ubuntu:24.04',
];

const HELP = `
A name is like ubuntu or ubuntu:24.04 (ubuntu-24.04 is the same). An image that is here stays as it is until it is
pulled again; then both are here, and the name means the newer one. VMs have overlays over images: an image is shared by
all of them, and cannot be removed as long as one uses it.

Proxies are taken from HTTPS_PROXY, HTTP_PROXY and NO_PROXY. In config.ini ($TSVM_HOME, else ~/.config/tsvm), a mirror
takes the place of a distributor's server, checksums included, and images can be added:

  [mirror]
  https://cloud-images.ubuntu.com/ = https://mirror.example/ubuntu-cloud/

  [image "mine:1"]
  disk = https://example.org/mine.qcow2
  sha256 = 64 hexadecimal digits, or \`checksums = \` and the address of a list of them
  user = mine`;

/** `tsvm image`: what VMs are made from. */
export function addImage(program: Command, done: Done): void {
  const image = addVerb(program, 'image', 'download, import and remove images of VMs', EXAMPLES).addHelpText(
    'after',
    HELP,
  );
  addList(image, done);
  addPull(image, done);
  addImport(image, done);
  addBuild(image, done);
  addInfo(image, done);
  addRemove(image, done);
  addPrune(image, done);
}
