import { afterEach, describe, expect, test, vi } from 'vitest';
import { createEventFd, type EventFd } from '../../src/kvm/events.ts';
import { HANDLER, longModeVm, setVector, type LongModeVm } from '../support/long-mode.ts';
import { sleep } from '../support/tiny-guests.ts';
import { HLT, STI } from '../support/x86.ts';

const LAPIC = 0xfee00000;
const IOAPIC = 0xfec00000;
/** an interrupt handler tells its vector here */
const REPORT = 0x80;
/** I/O APIC redirection: level-triggered */
const LEVEL = 1 << 15;

const dword = (value: number): number[] =>
  [value, value >>> 8, value >>> 16, value >>> 24].map((b) => b & 0xff);
/** mov eax, value; mov ebx, address; mov [rbx], eax */
const store = (address: number, value: number): number[] => [
  0xb8,
  ...dword(value),
  0xbb,
  ...dword(address),
  ...[0x89, 0x03],
];
/** mov al, value; out port, al */
const out8 = (port: number, value: number): number[] => [0xb0, value, 0xe6, port];
/** spurious-interrupt vector register: enabled */
const ENABLE_LAPIC = store(LAPIC + 0xf0, 0x1ff);
const END_OF_INTERRUPT = store(LAPIC + 0xb0, 0);
/** Routes a pin of the I/O APIC; the PICs, which have the same lines, are masked. */
const routePin = (pin: number, entry: number): number[] => [
  ...out8(0x21, 0xff),
  ...out8(0xa1, 0xff),
  ...store(IOAPIC, 0x10 + 2 * pin),
  ...store(IOAPIC + 0x10, entry),
];
/** hlt for ever, interrupts taken */
const WAIT = [STI, HLT, 0xeb, 0xfd];
const IRETQ = [0x48, 0xcf];

const guests: LongModeVm[] = [];
const fds: EventFd[] = [];
afterEach(() => {
  for (const { vm, ram } of guests.splice(0)) {
    vm.close();
    ram.close();
  }
  for (const fd of fds.splice(0)) fd.close();
});

function eventFd(): EventFd {
  const fd = createEventFd();
  fds.push(fd);
  return fd;
}

type Guest = LongModeVm & { seen: number[]; onReport: () => void };

/** Runs `setup`, then waits; an interrupt of one of `vectors` is reported, acknowledged, and gone back from. */
async function interrupted(
  vectors: readonly number[],
  setup: readonly number[],
  acknowledge = END_OF_INTERRUPT,
): Promise<Guest> {
  const ready = out8(REPORT, 1);
  const vm = longModeVm([...ENABLE_LAPIC, ...setup, ...ready, ...WAIT], { irqchip: true });
  const guest: Guest = { ...vm, seen: [], onReport: () => undefined };
  guests.push(guest);
  vectors.forEach((vector, i) => {
    const handler = HANDLER + 0x40 * i;
    setVector(guest, vector, handler);
    guest.ram.memory.write(
      handler,
      Uint8Array.from([0x50, 0x53, ...out8(REPORT, vector), ...acknowledge, 0x5b, 0x58, ...IRETQ]),
    );
  });
  guest.vm.add({
    name: 'report',
    space: 'pio',
    base: REPORT,
    size: 1,
    reads: 'trap',
    writes: 'trap',
    write: (_offset, _size, value) => {
      guest.seen.push(value);
      guest.onReport();
    },
  });
  guest.vm.resume();
  await vi.waitFor(() => expect(guest.seen).toEqual([1]), { timeout: 10_000 });
  guest.seen.length = 0;
  return guest;
}

async function sees(guest: Guest, ...vectors: number[]): Promise<void> {
  await vi.waitFor(() => expect(guest.seen).toEqual(vectors), { timeout: 10_000 });
  await sleep(20);
  expect(guest.seen).toEqual(vectors);
  guest.seen.length = 0;
}

describe('lines', () => {
  test('an edge on a pin of the I/O APIC is one interrupt', async () => {
    const guest = await interrupted([0x44], routePin(4, 0x44));
    const line = guest.vm.irqLine(4);
    line.set(true);
    await sees(guest, 0x44);
    line.set(true);
    line.set(false);
    await sees(guest);
    line.set(true);
    await sees(guest, 0x44);
  });

  test('a level interrupts until it is taken back', async () => {
    const guest = await interrupted([0x49], routePin(9, 0x49 | LEVEL));
    const line = guest.vm.irqLine(9);
    guest.onReport = () => {
      if (guest.seen.length === 3) line.set(false);
    };
    line.set(true);
    // a software KVM may have sampled the level once more before it went
    await vi.waitFor(() => expect(guest.seen.length).toBeGreaterThanOrEqual(3));
    await sleep(50);
    guest.seen.length = 0;
    await sees(guest);
  });

  test('the PIC delivers too, through LINT0', async () => {
    // ICW1 to ICW4: vectors from 0x20 on, slave at 2; all but line 5 masked
    const setup = [
      ...out8(0x20, 0x11),
      ...out8(0x21, 0x20),
      ...out8(0x21, 4),
      ...out8(0x21, 1),
      ...out8(0x21, 0xff & ~(1 << 5)),
      ...store(LAPIC + 0x350, 0x700),
    ];
    const guest = await interrupted([0x25], setup, out8(0x20, 0x20));
    const line = guest.vm.irqLine(5);
    line.set(true);
    await sees(guest, 0x25);
    line.set(false);
    line.set(true);
    await sees(guest, 0x25);
  });

  test('a line that no route has is ignored', async () => {
    const guest = await interrupted([], []);
    guest.vm.irqLine(3000).set(true);
    await sees(guest);
  });
});

describe('irqfd', () => {
  test('each signal is an interrupt', async () => {
    const guest = await interrupted([0x45], routePin(5, 0x45));
    const fd = eventFd();
    guest.vm.native.irqfd({ fd: fd.fd, gsi: 5 });
    fd.signal();
    await sees(guest, 0x45);
    fd.signal();
    await sees(guest, 0x45);
    guest.vm.native.irqfd({ fd: fd.fd, gsi: 5, remove: true });
    fd.signal();
    await sees(guest);
  });

  test('with a resample descriptor the level stays until the end of the interrupt, which is told', async () => {
    const guest = await interrupted([0x4a], routePin(10, 0x4a | LEVEL));
    const [trigger, resample] = [eventFd(), eventFd()];
    guest.vm.native.irqfd({ fd: trigger.fd, gsi: 10, resampleFd: resample.fd });
    let again = 2;
    resample.onEvent = () => {
      // as a device does whose cause is still there
      if (again-- > 0) trigger.signal();
    };
    resample.watch();
    trigger.signal();
    await sees(guest, 0x4a, 0x4a, 0x4a);
    expect(again).toBe(-1);
  });
});

describe('message-signalled interrupts', () => {
  test('a message goes to the processor it names', async () => {
    const guest = await interrupted([0x51, 0x52], []);
    expect(guest.vm.native.signalMsi(LAPIC, 0, 0x51)).toBe(true);
    await sees(guest, 0x51);
    expect(guest.vm.native.signalMsi(LAPIC, 0, 0x52)).toBe(true);
    await sees(guest, 0x52);
  });

  test('a message to a processor that is not there is lost, and no error', async () => {
    const guest = await interrupted([0x51], []);
    expect(guest.vm.native.signalMsi(LAPIC + (0x0f << 12), 0, 0x51)).toBe(false);
    await sees(guest);
  });

  test('a route turns an eventfd into a message; it can be changed and taken away', async () => {
    const guest = await interrupted([0x61, 0x62, 0x63], []);
    const { native, routing } = guest.vm;
    const message = (data: number) => ({ addressLow: LAPIC, addressHigh: 0, data });
    const [first, second] = [eventFd(), eventFd()];
    const [a, b] = [routing.allocate(message(0x61)), routing.allocate(message(0x62))];
    expect([a, b]).toEqual([24, 25]);
    native.irqfd({ fd: first.fd, gsi: a });
    native.irqfd({ fd: second.fd, gsi: b });
    first.signal();
    await sees(guest, 0x61);
    second.signal();
    await sees(guest, 0x62);
    routing.update(a, message(0x63));
    first.signal();
    await sees(guest, 0x63);
    routing.free(a);
    first.signal();
    await sees(guest);
    second.signal();
    await sees(guest, 0x62);
  });
});
