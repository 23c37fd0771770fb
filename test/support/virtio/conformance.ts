import { describe } from 'vitest';
import { chains } from './conformance/chains.ts';
import { negotiation } from './conformance/negotiation.ts';
import { queues } from './conformance/queues.ts';
import { rings } from './conformance/rings.ts';
import { snapshots } from './conformance/snapshots.ts';
import { bench, type ConformanceOptions } from './conformance/suite.ts';

export type { ConformanceOptions, Fixture } from './conformance/suite.ts';

/**
 * Runs what the specification asks of every device, with a driver over each transport, in memory of one piece and
 * in memory where everything crosses windows. For the top of a device's test file.
 */
export function conformance(options: ConformanceOptions): void {
  describe.each([
    ['mmio', 'one window'],
    ['pci', 'one window'],
    ['pci-intx', 'one window'],
    ['pci', 'a window a page'],
    ['mmio', 'a window a page'],
  ] as const)(`${options.name} over %s, RAM in %s`, (transport, memory) => {
    const one = bench(options, transport, memory);
    negotiation(one);
    queues(one);
    chains(one);
    rings(one);
    snapshots(one);
  });
}
