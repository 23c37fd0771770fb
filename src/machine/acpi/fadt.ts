import { GSI, PORT, RESET_VALUE } from '../../boot/layout.ts';
import { concat, littleEndian, table, type Term } from './table.ts';

/** A port of `bits` as Generic Address Structure (5.2.3.2). @param access 1 byte, 2 word, 3 dword */
function portAddress(port: number, bits: number, access: 1 | 2 | 3): Term {
  const systemIo = 1;
  return concat([systemIo, bits, 0, access], littleEndian(port, 8));
}
const NO_ADDRESS = new Uint8Array(12);

/** An unused block of `size` bytes. */
const zeros = (size: number): Term => new Uint8Array(size);

/** IAPC_BOOT_ARCH (5.2.9.3): devices behind an ISA bridge, an 8042, and no VGA to probe for */
const BOOT_ARCHITECTURE = { legacyDevices: 0x01, i8042: 0x02, noVga: 0x04 };

/**
 * Fixed feature flags (Table 5.10). The power button is a fixed feature, which its flag says by being clear; a set
 * bit for the sleep button says that the fixed one is not there, one for the RTC that its wake status is not.
 */
const FEATURES = {
  wbinvd: 1 << 0,
  c1OnAllProcessors: 1 << 2,
  noFixedSleepButton: 1 << 5,
  noFixedRtcWake: 1 << 6,
  timerIs32Bits: 1 << 8,
  resetRegister: 1 << 10,
};

const bits = (flags: Record<string, number>): number =>
  Object.values(flags).reduce((all, bit) => all | bit, 0);

/**
 * The fixed ACPI description table, revision 6.4 (5.2.9). There is no SMI command port: the machine is in ACPI mode
 * from the start. Latencies above the limits of 5.2.9 say that there are no C2 and C3 states.
 */
export function fadt(facs: number, dsdt: number): Term {
  const noC2 = 101;
  const noC3 = 1001;
  const century = 0x32;
  const pmEventLength = 4;
  const pmControlLength = 2;
  const pmTimerLength = 4;
  const gpe0Length = 2;
  return table(
    'FACP',
    6,
    littleEndian(facs, 4),
    littleEndian(dsdt, 4),
    // reserved, then the preferred profile: unspecified
    [0, 0],
    littleEndian(GSI.sci, 2),
    // SMI_CMD, ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT
    zeros(8),
    // PM1a and PM1b events, PM1a and PM1b control, PM2 control, timer, GPE0, GPE1
    ...[PORT.pm1aEvent, 0, PORT.pm1aControl, 0, 0, PORT.pmTimer, PORT.gpe0, 0].map((port) =>
      littleEndian(port, 4),
    ),
    // lengths: event, control, PM2 control, timer, GPE0, GPE1; GPE1_BASE, CST_CNT
    [pmEventLength, pmControlLength, 0, pmTimerLength, gpe0Length, 0, 0, 0],
    littleEndian(noC2, 2),
    littleEndian(noC3, 2),
    // FLUSH_SIZE, FLUSH_STRIDE, DUTY_OFFSET, DUTY_WIDTH; DAY_ALRM and MON_ALRM are not there
    zeros(8),
    [century],
    littleEndian(bits(BOOT_ARCHITECTURE), 2),
    [0],
    littleEndian(bits(FEATURES), 4),
    portAddress(PORT.reset, 8, 1),
    // RESET_VALUE, ARM_BOOT_ARCH, and the 4 of 6.4
    [RESET_VALUE, 0, 0, 4],
    littleEndian(facs, 8),
    littleEndian(dsdt, 8),
    portAddress(PORT.pm1aEvent, 8 * pmEventLength, 2),
    NO_ADDRESS,
    portAddress(PORT.pm1aControl, 8 * pmControlLength, 2),
    NO_ADDRESS,
    NO_ADDRESS,
    portAddress(PORT.pmTimer, 8 * pmTimerLength, 3),
    portAddress(PORT.gpe0, 8 * gpe0Length, 1),
    // GPE1, sleep control, sleep status
    ...[NO_ADDRESS, NO_ADDRESS, NO_ADDRESS],
    // hypervisor vendor identity: not given
    zeros(8),
  );
}
