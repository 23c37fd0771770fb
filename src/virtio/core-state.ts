import * as v from 'valibot';
import type { GuestMemory } from '../kvm/guest-memory.ts';
import { Features } from './features.ts';
import { progressFault } from './queue.ts';
import { layoutFault, QUEUE_SIZE_LIMIT } from './queue-layout.ts';
import { layoutOf } from './queue-setup.ts';
import { checkState, DeviceStateError, unsigned } from '../kvm/device-state.ts';
import { isReachable, STATUS } from './status.ts';

const word = unsigned(0xffff_ffff);
const index = unsigned(0xffff);
const halves = v.strictTuple([word, word]);

const queue = v.strictObject({
  size: index,
  ready: v.boolean(),
  refused: v.boolean(),
  /** addresses, low half first */
  descriptors: halves,
  driver: halves,
  device: halves,
  /** where the queue stands; there while the device is active */
  progress: v.optional(
    v.strictObject({
      available: index,
      used: index,
      inFlight: v.pipe(v.array(index), v.maxLength(QUEUE_SIZE_LIMIT)),
    }),
  ),
});

export const coreSchema = v.strictObject({
  status: unsigned(0xff),
  deviceFeatureSelect: word,
  driverFeatureSelect: word,
  queueSelect: word,
  driverFeatures: halves,
  configGeneration: word,
  queues: v.array(queue),
  device: v.unknown(),
});

/** A device with its queues and what its driver has negotiated. */
export type CoreState = v.InferOutput<typeof coreSchema>;
export type QueueState = CoreState['queues'][number];

/** What a saved state is restored into. */
export type CoreFacts = {
  readonly name: string;
  readonly memory: GuestMemory;
  /** of each queue */
  readonly sizeLimits: readonly number[];
  readonly accepts: (features: Features) => boolean;
};

/** Whether a device in this status works on its queues. */
export const isActive = (status: number): boolean =>
  (status & (STATUS.driverOk | STATUS.needsReset)) === STATUS.driverOk;

/** @throws DeviceStateError where `data` is no state that this device can have had */
export function checkCoreState(data: unknown, { name, memory, sizeLimits, accepts }: CoreFacts): CoreState {
  const state = checkState(name, coreSchema, data);
  const refuse = (message: string): never => {
    throw new DeviceStateError(`state of ${name}: ${message}`);
  };
  const { status } = state;
  if (!isReachable(status)) refuse(`status 0x${status.toString(16)} is none that a device can have`);
  const negotiated = (status & STATUS.featuresOk) !== 0;
  if (negotiated && !accepts(new Features(...state.driverFeatures))) {
    refuse('features that this device does not offer');
  }
  if (state.queues.length !== sizeLimits.length) refuse(`${state.queues.length} queues`);
  state.queues.forEach((queue, i) => {
    const fault = queueFault(queue, sizeLimits[i]!, memory, negotiated, isActive(status));
    if (fault !== undefined) refuse(`queue ${i}: ${fault}`);
  });
  return state;
}

function queueFault(
  queue: QueueState,
  sizeLimit: number,
  memory: GuestMemory,
  negotiated: boolean,
  active: boolean,
): string | undefined {
  const { ready, progress } = queue;
  if ((progress !== undefined) !== (ready && active)) return 'progress and status do not go together';
  if (!ready) return undefined;
  if (!negotiated) return 'ready before features are negotiated';
  const layout = layoutOf(queue);
  const fault = layoutFault(layout, sizeLimit, memory);
  if (fault !== undefined || progress === undefined) return fault;
  return progressFault(progress, layout, memory);
}
