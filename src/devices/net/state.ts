import * as v from 'valibot';
import { byte, checkState, unsigned } from '../../kvm/device-state.ts';
import { ADDRESS, MAX_PAIRS, VLANS } from './protocol.ts';
import { RX_MODES } from './receive-filter.ts';

const address = v.pipe(v.array(byte), v.length(ADDRESS));
/** What one control command brings at most. */
const LONGEST_TABLE = 2 ** 16;
const table = v.pipe(v.array(address), v.maxLength(LONGEST_TABLE));

const schema = v.strictObject({
  /** whether a driver was there; where not, nothing of what follows but `link` counts */
  active: v.boolean(),
  /** as the driver sees it, which may have set another one */
  mac: address,
  /** what the host wants */
  link: v.boolean(),
  modes: v.pipe(v.array(v.picklist(RX_MODES)), v.maxLength(RX_MODES.length)),
  unicast: table,
  multicast: table,
  vlans: v.pipe(v.array(unsigned(VLANS - 1)), v.maxLength(VLANS)),
  /** pairs of queues in use */
  pairs: v.pipe(unsigned(MAX_PAIRS), v.minValue(1)),
  /** what the driver takes undone at present, a set of `OFFLOAD` */
  offloads: unsigned(15),
  /** the driver was asked to announce itself and has not answered */
  announce: v.boolean(),
});

export type NetState = v.InferOutput<typeof schema>;

/** @throws DeviceStateError */
export function checkNetState(device: string, data: unknown): NetState {
  return checkState(device, schema, data);
}
