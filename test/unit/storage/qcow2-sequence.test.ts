/**
 * Random sequences on random images, mirrored in plain bytes and compared by QEMU's tools too. For longer ones:
 * TSVM_QCOW2_SEQUENCES=500 TSVM_QCOW2_SEED=1 TSVM_QCOW2_STEPS=100.
 */
import { describe, expect, test } from 'vitest';
import { runSequence } from '../../support/storage/sequence.ts';

const count = Number(process.env['TSVM_QCOW2_SEQUENCES'] ?? 8);
const seed = Number(process.env['TSVM_QCOW2_SEED'] ?? 1);
const steps = Number(process.env['TSVM_QCOW2_STEPS'] ?? 40);

describe('what was written is read, by us and by QEMU', { timeout: 300_000 }, () => {
  test.each(Array.from({ length: count }, (_, i) => seed + i))('seed %i', async (each) => {
    await expect(runSequence(each, steps)).resolves.toBeUndefined();
  });
});
