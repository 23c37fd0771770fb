import { afterEach } from 'vitest';
import type { VirtioDevice } from '../../../../src/virtio/device.ts';
import type { Buffer } from '../driver-queue.ts';
import { FakeMachine, type MemoryShape } from '../machine.ts';
import { Rig } from '../rig.ts';
import type { TransportDriver } from '../transport-driver.ts';

/** A device under test, and what ends it. */
export type Fixture = { readonly device: VirtioDevice; close?(): void | Promise<void> };

export type ConformanceOptions = {
  /** for the titles of the tests */
  readonly name: string;
  /** A new device, each time the same. */
  create: () => Fixture;
  /** A request that the device answers without anything else happening, and the queue it goes to. */
  readonly request: {
    readonly queue: number;
    buffers: () => Buffer[];
    /** Throws where the answer is wrong. */
    check: (reply: Uint8Array, written: number) => void;
  };
  /** Changes the device's configuration space as the host does; where it never changes, leave it out. */
  changeConfig?: (device: VirtioDevice) => void;
  /** how many requests the test of index wrap-around makes; default 66000. Fewer test nothing of it. */
  readonly wrapRequests?: number;
};

/** One combination of transport and memory, with a machine for each test. */
export type Bench = ConformanceOptions & {
  readonly transport: TransportDriver['kind'];
  readonly memory: MemoryShape;
  /** A device behind its transport, reset and not initialised. */
  rig: (machine?: FakeMachine) => Rig;
  /** Sends the request and checks the answer. */
  serves: (rig: Rig, options?: { indirect?: boolean }) => Promise<void>;
};

/** Makes the bench of one `describe` block. */
export function bench(
  options: ConformanceOptions,
  transport: TransportDriver['kind'],
  memory: MemoryShape,
): Bench {
  let fixtures: Fixture[] = [];
  afterEach(async () => {
    const open = fixtures;
    fixtures = [];
    for (const fixture of open) await fixture.close?.();
  });
  return {
    ...options,
    transport,
    memory,
    rig: (machine) => {
      const fixture = options.create();
      fixtures.push(fixture);
      return new Rig(fixture.device, { transport, memory }, machine);
    },
    serves: async (rig, how) => {
      const { request } = options;
      const { reply, written } = await rig.ask(rig.queue(request.queue), request.buffers(), how);
      request.check(reply, written);
    },
  };
}
