/**
 * Kills -9 at random moments, on the real ring. For more of them: TSVM_QCOW2_KILLS=300 TSVM_QCOW2_SEED=1.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { afterAll, expect, test } from 'vitest';
import { IoRing } from '../../../src/kvm/io-ring.ts';
import { whileLocked } from '../../../src/storage/file-lock.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { checkImage } from '../../../src/storage/qcow2/check.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { RingFile } from '../../../src/storage/qcow2/host-file.ts';
import { Random } from '../../fuzz/random.ts';
import { bundleScript } from '../../support/bundle-script.ts';
import { DiskUser } from '../../support/disk-user.ts';
import { killWrite } from '../../support/storage/kill-plan.ts';
import { noQemuTools, qemuCheck, temporaryFolder } from '../../support/storage/qemu-img.ts';

const count = Number(process.env['TSVM_QCOW2_KILLS'] ?? 4);
const seed = Number(process.env['TSVM_QCOW2_SEED'] ?? 1);
const SIZE = 4 * 2 ** 20;

const folder = temporaryFolder();
const ring = new IoRing();
afterAll(() => {
  ring.close();
  folder.remove();
});

/** Lets the worker write for some time; returns the last write that it was told is safe, -1 for none. */
async function writeUntilKilled(
  script: string,
  path: string,
  each: number,
  milliseconds: number,
): Promise<number> {
  const child = spawn(process.execPath, [script, path, String(each)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  await once(child.stdout, 'data');
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  child.kill('SIGKILL');
  await once(child, 'close');
  return Number(output.slice(0, output.lastIndexOf('\n')).split('\n').at(-1));
}

/** Finds bytes that neither the safe writes nor any of the later ones can have left. */
function firstWrong(content: Uint8Array, each: number, safe: number): number {
  const expected = new Uint8Array(SIZE);
  for (let n = 0; n <= safe; n++) {
    const { offset, bytes } = killWrite(each, n, SIZE);
    expected.set(bytes, offset);
  }
  // What followed until the next flush, at most, and one more in flight.
  const later = [];
  for (let n = safe + 1; n < safe + 200; n++) later.push(killWrite(each, n, SIZE));
  for (let at = 0; at < SIZE; at += 512) {
    if (content[at] === expected[at]) continue;
    const isLater = later.some(
      ({ offset, bytes }) => at >= offset && at < offset + bytes.length && bytes[0] === content[at],
    );
    if (!isLater) return at;
  }
  return -1;
}

test(`${count} kills lose nothing that was flushed, and leave no error`, { timeout: 7_200_000 }, async () => {
  const script = await bundleScript("import './test/support/storage/kill-worker.ts';");
  for (let each = seed; each < seed + count; each++) {
    const random = new Random(each);
    const path = folder.file(`kill${each}.qcow2`);
    const clusterSize = random.pick([512, 4096, 65536]);
    await createQcow2(path, {
      size: SIZE,
      clusterSize,
      extendedL2: clusterSize === 65536 && random.oneIn(2),
    });
    const safe = await writeUntilKilled(script, path, each, random.below(400));

    // The kernel may still be at work for the process that is gone, and has its locks until then.
    await whileLocked([[path, 'write']], () => undefined);
    const file = new RingFile(ring, path, false);
    const found = await checkImage(file);
    expect(found, `seed ${each}`).toMatchObject({ errors: 0 });
    if (noQemuTools === undefined) expect(qemuCheck(path), `seed ${each}`).not.toHaveProperty('corruptions');

    const disk = await openDisk(ring, { path, format: 'qcow2' });
    const content = await new DiskUser(ring, disk).read(0, SIZE);
    await disk.close();
    expect(firstWrong(content, each, safe), `seed ${each}, safe up to ${safe}`).toBe(-1);

    await checkImage(file, { repair: 'leaks' });
    expect(await checkImage(file)).toMatchObject({ errors: 0, leaks: 0 });
    file.close();
    rmSync(path);
  }
});
