/** Device status bits (VIRTIO 1.2, 2.1). */
export const STATUS = {
  acknowledge: 0x01,
  driver: 0x02,
  driverOk: 0x04,
  featuresOk: 0x08,
  needsReset: 0x40,
  failed: 0x80,
} as const;

/** The order in which a driver sets the bits, one at a time (3.1.1). */
const STEPS = [STATUS.acknowledge, STATUS.driver, STATUS.featuresOk, STATUS.driverOk] as const;
const STEP_BITS = 0x0f;
/** bits that the driver sets */
const DRIVER_BITS = STEP_BITS | STATUS.failed;

/**
 * The bit that a write adds to the status, or 0 where it is none that may follow: bits are never cleared but all at
 * once by a write of 0 (2.1.1), FAILED may come at any time, and after it nothing.
 */
export function statusStep(status: number, written: number): number {
  const before = status & DRIVER_BITS;
  const wanted = written & DRIVER_BITS;
  const added = wanted & ~before;
  if ((wanted & before) !== before || added === 0 || (before & STATUS.failed) !== 0) return 0;
  if (added === STATUS.failed) return added;
  return added === STEPS.find((step) => (before & step) === 0) ? added : 0;
}

/** Features are agreed on and the device is not live: the time for queues to be set up (3.1.1, step 7). */
export function isNegotiated(status: number): boolean {
  return (status & STEP_BITS) === (STATUS.acknowledge | STATUS.driver | STATUS.featuresOk);
}

/** Whether a device can be in this status. */
export function isReachable(status: number): boolean {
  if ((status & ~(DRIVER_BITS | STATUS.needsReset)) !== 0) return false;
  let steps = 0;
  return [0, ...STEPS].some((step) => (steps |= step) === (status & STEP_BITS));
}
