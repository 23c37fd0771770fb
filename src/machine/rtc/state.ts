import * as v from 'valibot';

import { byte, checkState, unsigned } from '../../kvm/device-state.ts';
import { CMOS_SIZE, INTERRUPTS } from './registers.ts';

/** The range of times that a Date holds (ECMA-262, 21.4.1.1), in milliseconds. */
const time = v.pipe(v.number(), v.finite(), v.minValue(-8.64e15), v.maxValue(8.64e15));

const schema = v.strictObject({
  index: unsigned(CMOS_SIZE - 1),
  /** all bytes; the time registers among them count only while the clock is stopped */
  cmos: v.pipe(v.array(byte), v.length(CMOS_SIZE)),
  /** the guest's time minus the host's, in milliseconds */
  offset: v.pipe(v.number(), v.finite(), v.minValue(-1e15), v.maxValue(1e15)),
  /** raised flags of register C */
  flags: v.pipe(
    byte,
    v.check((flags) => (flags & ~INTERRUPTS) === 0, 'reserved bits set'),
  ),
  /** the guest's time up to which flags have been raised, in milliseconds since 1970 */
  flagged: time,
});

/**
 * The clock. It goes on while the VM does not run: after a restore it shows the real time, and what fell due
 * meanwhile is flagged at once.
 */
export type RtcState = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkRtcState(data: unknown): RtcState {
  return checkState('rtc', schema, data);
}
