/**
 * Power cuts at random moments. For more of them: TSVM_QCOW2_CUTS=5000 TSVM_QCOW2_SEED=1.
 */
import { writeFileSync } from 'node:fs';
import { afterAll, expect, test } from 'vitest';
import { checkImage } from '../../../src/storage/qcow2/check.ts';
import { cutPower } from '../../support/storage/power-cut.ts';
import { noQemuTools, qemuCheck, temporaryFolder } from '../../support/storage/qemu-img.ts';
import { SimFile } from '../../support/storage/sim-file.ts';

const count = Number(process.env['TSVM_QCOW2_CUTS'] ?? 60);
const seed = Number(process.env['TSVM_QCOW2_SEED'] ?? 1);
/** of the images, QEMU looks at one in so many */
const QEMU_EVERY = 5;

const folder = temporaryFolder();
afterAll(() => folder.remove());

async function repair(image: Uint8Array): Promise<Uint8Array> {
  const file = new SimFile('cut.qcow2', image);
  await checkImage(file, { repair: 'all' });
  return Uint8Array.from(file.content);
}

test(
  `${count} power cuts lose nothing that was flushed, and leave no error`,
  { timeout: 7_200_000 },
  async () => {
    const path = folder.file('cut.qcow2');
    writeFileSync(folder.file('backing.raw'), new Uint8Array(512));
    for (let each = seed; each < seed + count; each++) {
      const { image } = await cutPower(each, repair);
      const file = new SimFile('cut.qcow2', image);
      const own = await checkImage(file);
      expect(own, `seed ${each}`).toMatchObject({ errors: 0 });
      if (noQemuTools !== undefined || each % QEMU_EVERY !== 0) continue;

      file.save(path);
      const theirs = qemuCheck(path);
      expect(theirs, `seed ${each}`).not.toHaveProperty('corruptions');
      // QEMU does not look at counts of clusters behind the end of the file.
      expect(own.leaks, `seed ${each}`).toBeGreaterThanOrEqual(theirs.leaks ?? 0);
      await checkImage(file, { repair: each % 2 === 0 ? 'leaks' : 'all' });
      file.save(path);
      expect(qemuCheck(path), `seed ${each}, repaired`).not.toHaveProperty('leaks');
    }
  },
);
