import { GSI, IOAPIC, LAPIC } from '../../boot/layout.ts';
import { littleEndian, concat, table, type Term } from './table.ts';

/** PCAT_COMPAT: there are two 8259s too (Table 5.20) */
const DUAL_8259 = 1;
const ENABLED = 1;
const IOAPIC_ID = 0;
/** the non-maskable interrupt's local interrupt pin */
const LINT1 = 1;
/** MPS INTI flags (Table 5.26): as the bus has it; or active-high and level-triggered */
const AS_THE_BUS = 0;
const ACTIVE_HIGH_LEVEL = 0x0d;

/** Ids from here on need an x2APIC entry: 255 is the broadcast id of the xAPIC (5.2.12.12). */
const X2APIC_IDS = 255;

function entry(type: number, ...fields: readonly ArrayLike<number>[]): Term {
  const body = concat(...fields);
  return concat([type, 2 + body.length], body);
}

const localApic = (uid: number, apicId: number): Term => entry(0, [uid, apicId], littleEndian(ENABLED, 4));
const localX2Apic = (uid: number, apicId: number): Term =>
  entry(9, [0, 0], littleEndian(apicId, 4), littleEndian(ENABLED, 4), littleEndian(uid, 4));
const ioApic = (address: number, firstGsi: number): Term =>
  entry(1, [IOAPIC_ID, 0], littleEndian(address, 4), littleEndian(firstGsi, 4));
const override = (isaIrq: number, gsi: number, flags: number): Term =>
  entry(2, [0, isaIrq], littleEndian(gsi, 4), littleEndian(flags, 2));

/** The multiple APIC description table (5.2.12). @param apicIds by processor UID */
export function madt(apicIds: readonly number[]): Term {
  const allProcessors = 0xff;
  const allX2Processors = 0xffff_ffff;
  return table(
    'APIC',
    5,
    littleEndian(LAPIC, 4),
    littleEndian(DUAL_8259, 4),
    ...apicIds.map((id, uid) => (id < X2APIC_IDS ? localApic(uid, id) : localX2Apic(uid, id))),
    ioApic(IOAPIC, 0),
    // The PIT's interrupt is wired to pin 2, as on every PC with an IOAPIC; the SCI is level-triggered.
    override(0, 2, AS_THE_BUS),
    override(GSI.sci, GSI.sci, ACTIVE_HIGH_LEVEL),
    entry(4, [allProcessors], littleEndian(AS_THE_BUS, 2), [LINT1]),
    ...(apicIds.some((id) => id >= X2APIC_IDS)
      ? [entry(10, littleEndian(AS_THE_BUS, 2), littleEndian(allX2Processors, 4), [LINT1, 0, 0, 0])]
      : []),
  );
}
