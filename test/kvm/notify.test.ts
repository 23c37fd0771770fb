import { afterEach, describe, expect, test, vi } from 'vitest';
import { KvmMessages, KvmNotifier } from '../../src/kvm/notify.ts';
import { HANDLER, longModeVm, setVector, type LongModeVm } from '../support/long-mode.ts';
import { runToHalt, sleep, tinyGuests } from '../support/tiny-guests.ts';
import { HLT, real, STI } from '../support/x86.ts';

const MMIO = 0xd0000;
const guest = tinyGuests();

/** mov [MMIO + at], ax, al or eax */
const store16 = (at: number): number[] => [...real.movDs(MMIO >> 4), ...real.movAx(7), ...real.storeAx(at)];
const store32 = (at: number): number[] => [...real.movDs(MMIO >> 4), ...real.movEax(7), ...real.storeEax(at)];

describe('KvmNotifier', () => {
  test('tells of writes of any width to its address, and the bus sees none of them', async () => {
    const tiny = guest(store16(4), store32(4), store16(8));
    const writes: number[] = [];
    tiny.vm.add({
      name: 'notify',
      space: 'mmio',
      base: MMIO,
      size: 16,
      reads: 'shadow',
      writes: 'posted',
      write: (offset) => void writes.push(offset),
    });
    const notified = vi.fn();
    new KvmNotifier(tiny.vm).attach({ space: 'mmio', address: MMIO + 4, size: 0 }, notified);
    // Nobody but the VM holds the attachment.
    globalThis.gc?.();
    await runToHalt(tiny);
    globalThis.gc?.();
    await vi.waitFor(() => expect(notified).toHaveBeenCalled());
    expect(writes).toEqual([8]);
  });

  test('tells of one value where it is asked to', async () => {
    const tiny = guest(store32(0));
    const [other, right] = [vi.fn(), vi.fn()];
    const notifier = new KvmNotifier(tiny.vm);
    notifier.attach({ space: 'mmio', address: MMIO, size: 4, datamatch: 6 }, other);
    notifier.attach({ space: 'mmio', address: MMIO, size: 4, datamatch: 7 }, right);
    await runToHalt(tiny);
    await vi.waitFor(() => expect(right).toHaveBeenCalledTimes(1));
    expect(other).not.toHaveBeenCalled();
  });

  test('tells nothing after detach, and its address can be attached again', async () => {
    const tiny = guest(store16(0));
    const [first, second] = [vi.fn(), vi.fn()];
    const notifier = new KvmNotifier(tiny.vm);
    notifier.attach({ space: 'mmio', address: MMIO, size: 0 }, first).detach();
    notifier.attach({ space: 'mmio', address: MMIO, size: 0 }, second);
    await runToHalt(tiny);
    await vi.waitFor(() => expect(second).toHaveBeenCalledTimes(1));
    expect(first).not.toHaveBeenCalled();
  });

  test('is detached after the VM was closed without complaint', () => {
    const tiny = guest();
    const attached = new KvmNotifier(tiny.vm).attach({ space: 'mmio', address: MMIO, size: 0 }, vi.fn());
    tiny.vm.close();
    attached.detach();
  });
});

describe('KvmMessages', () => {
  const LAPIC = 0xfee0_0000;
  const REPORT = 0x80;
  const open: LongModeVm[] = [];
  afterEach(() => {
    for (const { vm, ram } of open.splice(0)) {
      vm.close();
      ram.close();
    }
  });

  const dword = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
  /** mov eax, value; mov ebx, address; mov [rbx], eax */
  const store = (address: number, value: number): number[] => [
    ...[0xb8, ...dword(value)],
    ...[0xbb, ...dword(address)],
    ...[0x89, 0x03],
  ];
  const report = (value: number): number[] => [0xb0, value, 0xe6, REPORT];

  /** A guest that reports the vectors it takes, and that it is ready as 1. */
  async function listening(vectors: readonly number[]): Promise<{ vm: LongModeVm['vm']; seen: number[] }> {
    const one = longModeVm([...store(LAPIC + 0xf0, 0x1ff), ...report(1), STI, HLT, 0xeb, 0xfd], {
      irqchip: true,
    });
    open.push(one);
    for (const [i, vector] of vectors.entries()) {
      const handler = HANDLER + 0x40 * i;
      setVector(one, vector, handler);
      const code = [0x50, 0x53, ...report(vector), ...store(LAPIC + 0xb0, 0), 0x5b, 0x58, 0x48, 0xcf];
      one.ram.memory.write(handler, Uint8Array.from(code));
    }
    const seen: number[] = [];
    one.vm.add({
      name: 'report',
      space: 'pio',
      base: REPORT,
      size: 1,
      reads: 'trap',
      writes: 'trap',
      write: (_offset, _size, value) => void seen.push(value),
    });
    one.vm.resume();
    await vi.waitFor(() => expect(seen).toEqual([1]), { timeout: 10_000 });
    seen.length = 0;
    return { vm: one.vm, seen };
  }

  test('go where they are configured to, and follow a change', async () => {
    const { vm, seen } = await listening([0x41, 0x42]);
    const sink = new KvmMessages(vm).allocate();
    sink.configure({ addressLow: LAPIC, addressHigh: 0, data: 0x41 });
    sink.trigger();
    await vi.waitFor(() => expect(seen).toEqual([0x41]), { timeout: 10_000 });
    sink.configure({ addressLow: LAPIC, addressHigh: 0, data: 0x42 });
    sink.trigger();
    await vi.waitFor(() => expect(seen).toEqual([0x41, 0x42]), { timeout: 10_000 });
  });

  test('do nothing before they are configured, nor after their release', async () => {
    const { vm, seen } = await listening([0x41]);
    const sink = new KvmMessages(vm).allocate();
    sink.trigger();
    sink.configure({ addressLow: LAPIC, addressHigh: 0, data: 0x41 });
    sink.release();
    sink.trigger();
    sink.release();
    await sleep(50);
    expect(seen).toEqual([]);
  });

  test('give their route back', async () => {
    const { vm } = await listening([]);
    const before = vm.routing.encode().length;
    const sink = new KvmMessages(vm).allocate();
    sink.configure({ addressLow: LAPIC, addressHigh: 0, data: 0x41 });
    expect(vm.routing.encode().length).toBeGreaterThan(before);
    sink.release();
    expect(vm.routing.encode().length).toBe(before);
  });
});
