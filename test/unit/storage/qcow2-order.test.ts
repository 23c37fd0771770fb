/** What I/O a qcow2 disk does: how many requests and syncs, and in what order. */
import { describe, expect, test } from 'vitest';
import { IO } from '../../../src/kvm/io-ring.ts';
import { IoVector } from '../../../src/kvm/io-vector.ts';
import { DISK_OPERATION } from '../../../src/storage/disk.ts';
import { extentAt } from '../../../src/storage/qcow2/map.ts';
import type { Qcow2Disk } from '../../../src/storage/qcow2/qcow2-disk.ts';
import { newImage, openCase } from '../../support/storage/image-case.ts';

const CLUSTER = 65536;
const MIB = 2 ** 20;
const image = newImage({ size: 64 * MIB });

async function extentOf(disk: Qcow2Disk, offset: number): Promise<{ host: number | undefined }> {
  return { host: (await extentAt(disk, offset)).offset };
}

const bytesOf = (length: number, value = 5): Uint8Array => new Uint8Array(length).fill(value);

describe('a flush', () => {
  test('takes two syncs where clusters were allocated', async () => {
    const { user, file } = await openCase(image, {});
    await user.write(0, bytesOf(CLUSTER));
    await user.flush();
    expect(file.counts.sync).toBe(2);
  });

  test('takes one sync where data went to allocated clusters', async () => {
    const { user, file } = await openCase(image, {});
    await user.write(0, bytesOf(CLUSTER));
    await user.flush();
    file.counts.sync = 0;
    await user.write(0, bytesOf(4096, 6));
    await user.flush();
    expect(file.counts.sync).toBe(1);
  });

  test('takes one sync after a discard, which refers to nothing new', async () => {
    const { user, file } = await openCase(image, {});
    await user.write(0, bytesOf(2 * CLUSTER));
    await user.flush();
    file.counts.sync = 0;
    await user.discard(0, CLUSTER);
    await user.flush();
    expect(file.counts.sync).toBe(1);
  });

  test('takes none where nothing was written since the last', async () => {
    const { user, file } = await openCase(image, {});
    await user.write(0, bytesOf(512));
    await user.flush();
    file.counts.sync = 0;
    await user.flush();
    expect(file.counts.sync).toBe(0);
  });

  test('is shared by all that ask while one is under way', async () => {
    const { user, file } = await openCase(image, {});
    await user.write(0, bytesOf(512));
    await Promise.all(Array.from({ length: 10 }, () => user.flush()));
    expect(file.counts.sync).toBe(2);
  });

  test('shares a sync with the one before it where it is asked for in time', async () => {
    let syncs = 0;
    const { disk, file } = await openCase(image, {
      fault: (operation) => {
        // The second write comes while the first sync of the first one's flush is carried out.
        if (operation === IO.sync && ++syncs === 1) write(CLUSTER);
        return 0;
      },
    });
    const buffer = file.register(bytesOf(512));
    const write = (offset: number): void => {
      const vector = new IoVector();
      vector.add(buffer, 0, 512);
      disk.submit({ operation: DISK_OPERATION.write, offset, length: 512, vector, unmap: false });
      disk.commit();
    };
    let flushed = 0;
    await new Promise<void>((resolve) => {
      disk.attach({
        completed: (request) => {
          if (request.operation === DISK_OPERATION.flush) flushed++;
          else disk.submit({ ...request, operation: DISK_OPERATION.flush, offset: 0, length: 0 });
        },
        batchEnd: () => {
          if (flushed === 2) resolve();
          else disk.commit();
        },
      });
      write(0);
    });
    expect(syncs).toBe(3);
  });

  test('that fails makes all later ones fail: what was lost stays lost', async () => {
    let failing = false;
    const fault = (operation: number): number => (failing && operation === IO.sync ? 5 : 0);
    const { user } = await openCase(image, { fault });
    await user.write(0, bytesOf(512));
    failing = true;
    await expect(user.flush()).rejects.toThrow('errno 5');
    failing = false;
    await expect(user.flush()).rejects.toThrow('errno 5');
  });
});

describe('data of allocated clusters', () => {
  test('is read with one request to the host where they are contiguous', async () => {
    const { user, file } = await openCase(image, {});
    await user.write(0, bytesOf(4 * MIB));
    file.counts.read = 0;
    await user.read(4096, 3 * MIB);
    expect(file.counts.read).toBe(1);
  });

  test('is written with one request to the host where they are contiguous', async () => {
    const { user, file } = await openCase(image, {});
    await user.write(0, bytesOf(4 * MIB));
    file.counts.write = 0;
    await user.write(512, bytesOf(2 * MIB));
    expect(file.counts.write).toBe(1);
  });

  test('goes out for a whole batch of requests with one submission', async () => {
    const { disk, user, file } = await openCase(image, {});
    await user.write(0, bytesOf(4 * MIB));
    file.counts.submits = 0;
    const done = Array.from({ length: 32 }, (_, i) => user.read(i * 8192, 4096));
    file.counts.submits = 0;
    disk.commit();
    await Promise.all(done);
    expect(file.counts.submits).toBeLessThanOrEqual(1);
  });

  test('is told of in batches', async () => {
    const { disk, user } = await openCase(image, {});
    await user.write(0, bytesOf(MIB));
    user.batches = 0;
    let completed = 0;
    for (let i = 0; i < 16; i++) {
      user.submit(DISK_OPERATION.read, i * 4096, new Uint8Array(4096), () => completed++);
    }
    disk.commit();
    disk.drain();
    expect(completed).toBe(16);
    expect(user.batches).toBeLessThanOrEqual(17);
  });
});

describe('requests in flight together', () => {
  test('that write into one new cluster both stay', async () => {
    const { disk, user } = await openCase(image, {});
    let errors = 0;
    const count = (error: number): void => {
      errors += error;
    };
    user.submit(DISK_OPERATION.write, 0, bytesOf(512, 1), count);
    user.submit(DISK_OPERATION.write, 512, bytesOf(512, 2), count);
    user.submit(DISK_OPERATION.write, CLUSTER - 512, bytesOf(1024, 3), count);
    disk.commit();
    disk.drain();
    const read = await user.read(0, CLUSTER + 1024);
    expect(errors).toBe(0);
    expect([
      read[0],
      read[512],
      read[1024],
      read[CLUSTER - 512],
      read[CLUSTER + 511],
      read[CLUSTER + 512],
    ]).toEqual([1, 2, 0, 3, 3, 0]);
  });

  test.each([
    ['zeroed', DISK_OPERATION.writeZeroes],
    ['discarded', DISK_OPERATION.discard],
  ] as const)(
    'leave a cluster %s that a write was copying meanwhile, but for the write',
    async (_name, operation) => {
      const below = bytesOf(4 * CLUSTER, 0xbb);
      const overlay = newImage({ size: 4 * CLUSTER, backingFile: 'below.raw', backingFormat: 'raw' });
      const { disk, user } = await openCase(overlay, {}, below);
      // There is an L2 table then.
      await user.write(0, bytesOf(512, 1));
      const errors: number[] = [];
      const note = (error: number): number => errors.push(error);
      user.submit(DISK_OPERATION.write, 3 * CLUSTER + 4096, bytesOf(512, 2), note);
      disk.commit();
      user.submit(operation, 3 * CLUSTER, CLUSTER, note, true);
      disk.commit();
      disk.drain();
      expect(errors).toEqual([0, 0]);
      const read = await user.read(3 * CLUSTER, CLUSTER);
      read.fill(0, 4096, 4608);
      expect(new Set(read)).toEqual(new Set([0]));
    },
  );

  test('do not see another cluster where theirs was discarded and used again', async () => {
    const { disk, user, file } = await openCase(image, {});
    await user.write(0, bytesOf(CLUSTER, 7));
    await user.flush();
    const seen = new Uint8Array(CLUSTER);
    user.submit(DISK_OPERATION.read, 0, seen, () => undefined);
    disk.commit();
    // The read is with the host. All that follows is done before it, as far as it does not wait for it.
    user.submit(DISK_OPERATION.discard, 0, CLUSTER, () => undefined);
    user.submit(DISK_OPERATION.flush, 0, 0, () => undefined);
    disk.commit();
    file.holdFirst = true;
    for (let i = 0; i < 50 && file.step(); i++);
    user.submit(DISK_OPERATION.write, 10 * CLUSTER, bytesOf(CLUSTER, 9), () => undefined);
    disk.commit();
    for (let i = 0; i < 50 && file.step(); i++);
    file.holdFirst = false;
    disk.drain();
    expect(new Set(seen)).toEqual(new Set([7]));
  });
});

describe('a cluster that is used again', () => {
  test('as an L2 table has nothing of what it was', async () => {
    const first = await openCase(newImage({ size: 16 * MIB, clusterSize: 4096 }), {});
    await first.user.write(0, bytesOf(4096, 0x80));
    const { host } = await extentOf(first.disk, 0);
    await first.user.flush();
    await first.user.discard(0, 4096);
    await first.user.flush();
    first.disk.drain();
    await first.user.write(4 * MIB, bytesOf(512));
    expect(first.disk.parts.mapping.tableOf(4 * MIB)).toBe(host);
    await first.disk.close();
    const second = await openCase(first.file.content, {});
    const read = await second.user.read(4 * MIB, 2 * MIB);
    expect(read.every((byte, i) => byte === (i < 512 ? 5 : 0))).toBe(true);
  });
});

describe('memory', () => {
  test('of the L2 cache stays within its limit, however much is written without a flush', async () => {
    const { disk, user } = await openCase(newImage({ size: 16 * MIB, clusterSize: 512 }), {});
    for (let at = 0; at < 16 * MIB; at += 32768) await user.write(at, bytesOf(512));
    expect(disk.parts.mapping.cache.size).toBeLessThanOrEqual(8192);
    expect((await user.content()).filter((byte) => byte !== 0).length).toBe(512 * 512);
  });
});
