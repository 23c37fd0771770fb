/**
 * Writes to an image until it is killed. Says on standard output what it has been told is safe: `n` after the flush
 * that followed write number n. Write n goes to a place and has contents that follow from n alone.
 */
import { writeSync } from 'node:fs';
import { IoRing } from '../../../src/kvm/io-ring.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { DiskUser } from '../disk-user.ts';
import { killWrite } from './kill-plan.ts';

const [path = '', seed = '1'] = process.argv.slice(2);
const ring = new IoRing();
const disk = await openDisk(ring, { path, format: 'qcow2' });
const user = new DiskUser(ring, disk);
for (let n = 0; ; n++) {
  const { offset, bytes, flush, discard } = killWrite(Number(seed), n, disk.size);
  if (discard) await user.ask({ operation: 'writeZeroes', offset, length: bytes.length, unmap: n % 2 === 0 });
  else await user.write(offset, bytes);
  if (!flush) continue;
  await user.ask({ operation: 'flush' });
  writeSync(1, `${n}\n`);
}
