/** Requests to the host that fail: the guest is told, and the image is none the worse. */
import { describe, expect, test } from 'vitest';
import { IO } from '../../../src/kvm/io-ring.ts';
import { checkImage } from '../../../src/storage/qcow2/check.ts';
import { Random } from '../../fuzz/random.ts';
import {
  newImage,
  openCase,
  randomGeometry,
  randomOperation,
  randomSize,
  SECTOR,
  sectorBytes,
  submit,
} from '../../support/storage/image-case.ts';

const CLUSTER = 65536;
const ENOSPC = 28;

describe('where one request in so many fails', () => {
  test.each(Array.from({ length: 40 }, (_, i) => i + 1))(
    'the image has no errors, and no request is lost (seed %i)',
    async (seed) => {
      const random = new Random(seed);
      const geometry = { ...randomGeometry(random), lazyRefcounts: false };
      const every = random.pick([10, 30, 100]);
      let failing = false;
      const fault = (operation: number): number => {
        if (!failing || operation === IO.sync || !random.oneIn(every)) return 0;
        return operation === IO.read ? 5 : ENOSPC;
      };
      const image = newImage({ ...geometry, size: randomSize(random, geometry) });
      const { disk, user, file } = await openCase(image, { random, fault });
      failing = true;
      let left = 0;
      for (let step = 0; step < 60; step++) {
        left++;
        submit(user, randomOperation(random, disk.size / SECTOR, 0x1_0000 + step), () => left--);
        if (random.oneIn(4)) disk.drain();
      }
      disk.drain();
      expect(left).toBe(0);
      failing = false;
      // What is written now holds, whatever failed before.
      const bytes = sectorBytes(0, 8, 0x2_0000);
      await user.write(0, bytes);
      expect(Buffer.compare(await user.read(0, bytes.length), bytes)).toBe(0);
      await disk.close();
      expect(await checkImage(file.copy())).toMatchObject({ errors: 0 });
    },
  );
});

test('a host that is full is ENOSPC for the guest, and what was there stays', async () => {
  let full = false;
  const fault = (operation: number): number => (full && operation === IO.write ? ENOSPC : 0);
  const { disk, user, file } = await openCase(newImage({ size: 64 * CLUSTER }), { fault });
  await user.write(0, new Uint8Array(CLUSTER).fill(1));
  await user.flush();
  full = true;
  await expect(user.write(8 * CLUSTER, new Uint8Array(512))).rejects.toThrow(`errno ${ENOSPC}`);
  full = false;
  expect((await user.read(0, 512))[0]).toBe(1);
  await user.write(8 * CLUSTER, new Uint8Array(512).fill(2));
  await disk.close();
  expect(await checkImage(file.copy())).toMatchObject({ errors: 0, leaks: 0 });
});
