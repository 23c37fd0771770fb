import { defineConfig } from 'vitest/config';

/**
 * unit: any machine, seconds. kvm: needs /dev/kvm, boots no kernel. guest: boots kernels, directly where KVM can
 * run one, else in the lab. soak: the long forms, not part of `npm test`. `npm test` runs one project after the other;
 * `./quickstart.sh test` runs guest, which takes one core for a long time, beside unit and kvm.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          sequence: { groupOrder: 0 },
          include: ['test/unit/**/*.test.ts'],
          testTimeout: 30_000,
          maxWorkers: 2,
        },
      },
      {
        test: {
          name: 'kvm',
          sequence: { groupOrder: 1 },
          include: ['test/kvm/**/*.test.ts'],
          testTimeout: 60_000,
          pool: 'forks',
          execArgv: ['--expose-gc'],
        },
      },
      {
        test: {
          name: 'guest',
          sequence: { groupOrder: 2 },
          include: ['test/guest/**/*.test.ts'],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          fileParallelism: false,
          globalSetup: ['test/guest/global-setup.ts', 'test/lab/global-setup.ts'],
        },
      },
      {
        test: {
          name: 'soak',
          sequence: { groupOrder: 3 },
          include: ['test/soak/**/*.test.ts'],
          testTimeout: 7_200_000,
          hookTimeout: 300_000,
          fileParallelism: false,
          globalSetup: ['test/guest/global-setup.ts', 'test/lab/global-setup.ts'],
        },
      },
    ],
  },
});
