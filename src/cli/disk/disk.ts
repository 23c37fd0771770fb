import type { Command } from 'commander';

import { addVerb, type Done } from '../verb.ts';
import { addCheck } from './check.ts';
import { addCommit } from './commit.ts';
import { addConvert } from './convert.ts';
import { addCreate } from './create.ts';
import { addInfo } from './info.ts';
import { addMap } from './map.ts';
import { addRebase } from './rebase.ts';
import { addResize } from './resize.ts';

const EXAMPLES = [
  'tsvm disk create debian.qcow2 20G',
  'tsvm disk create --backing base.qcow2 --backing-format qcow2 vm1.qcow2',
  'tsvm disk convert --format raw --compress debian.raw base.qcow2',
  'tsvm disk check vm1.qcow2',
];

const HELP = `
Formats are raw and qcow2. The format of an image that exists is raw unless --format tells, and never guessed: what a
guest writes to a raw disk can look like anything. Sizes are like 512M, 20G or 1536K; a bare number counts MiB, and
4096B bytes.

A backing file is found by its name from the overlay's own folder. One in another folder is used only with
--trust-backing; a name that is no file name (nbd:, json:) never is.

While a command or a VM writes to an image, nobody else may use it, and while somebody reads it, nobody may write to
it; QEMU's programs keep to that too.`;

/** `tsvm disk`: makes and changes disk images. */
export function addDisk(program: Command, done: Done): void {
  const disk = addVerb(
    program,
    'disk',
    'create, inspect, check and convert disk images',
    EXAMPLES,
  ).addHelpText('after', HELP);
  addCreate(disk, done);
  addInfo(disk, done);
  addResize(disk, done);
  addCheck(disk, done);
  addConvert(disk, done);
  addRebase(disk, done);
  addCommit(disk, done);
  addMap(disk, done);
}
