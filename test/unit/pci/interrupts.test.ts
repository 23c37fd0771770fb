import { describe, expect, test } from 'vitest';
import { EchoDevice, FieldsDevice } from '../../support/virtio/devices.ts';
import type { PciHandle } from '../../support/virtio/pci-driver.ts';
import { PciRig } from '../../support/virtio/pci-rig.ts';

/** Two functions with MSI-X of two vectors for the configuration and one queue; the slot of the first at hand. */
function fixture(): {
  rig: PciRig;
  fn: PciHandle;
  control: number;
  entry: (vector: number, word: number) => number;
  pending: () => number;
  send: (vector: number) => void;
  write: (vector: number, address: number, data: number, masked: boolean) => void;
} {
  const rig = new PciRig([new EchoDevice({ queueSizes: [8] }), new EchoDevice({ queueSizes: [8] })]);
  const fn = rig.handle(1);
  fn.enable();
  const at = fn.capabilities(0x11)[0]!;
  const table = fn.bar(0) + (fn.read(at + 4, 4) & ~7);
  const pba = fn.bar(0) + (fn.read(at + 8, 4) & ~7);
  const { machine } = rig;
  return {
    rig,
    fn,
    control: at + 2,
    entry: (vector, word) => table + 16 * vector + 4 * word,
    pending: () => machine.read('mmio', pba, 4),
    send: (vector) => slotOf(rig).message(vector),
    write: (vector, address, data, masked) => {
      machine.write('mmio', table + 16 * vector, 4, address);
      machine.write('mmio', table + 16 * vector + 4, 4, 0);
      machine.write('mmio', table + 16 * vector + 8, 4, data);
      machine.write('mmio', table + 16 * vector + 12, 4, masked ? 1 : 0);
      machine.settle();
    },
  };
}

/** The board's side of the first function, as that one was given it. */
function slotOf(rig: PciRig): { message(vector: number): void; pin(high: boolean): void } {
  const slot = rig.slots[0];
  if (slot === undefined) throw new Error('not attached');
  return slot;
}

const MASK_ALL = 0xc000;
const ENABLE = 0x8000;

describe('MSI-X', () => {
  test('has a vector for each queue and one for the configuration', () => {
    const { fn, control } = fixture();
    expect(fn.read(control, 2)).toBe(1);
  });

  test('starts off with all vectors masked', () => {
    const { rig, entry } = fixture();
    expect([0, 1, 2, 3].map((word) => rig.machine.read('mmio', entry(1, word), 4))).toEqual([0, 0, 0, 1]);
  });

  test('sends the message of a vector', () => {
    const { rig, fn, control, write, send } = fixture();
    fn.write(control, 2, ENABLE);
    write(1, 0xfee0_1000, 0x4051, false);
    send(1);
    expect(rig.machine.messages.sent).toEqual([{ addressLow: 0xfee0_1000, addressHigh: 0, data: 0x4051 }]);
  });

  test('sends nothing while it is off', () => {
    const { rig, write, send, pending } = fixture();
    write(1, 0xfee0_0000, 0x51, false);
    send(1);
    expect([rig.machine.messages.sent, pending()]).toEqual([[], 0]);
  });

  test('keeps a masked vector pending, and sends it once when it is unmasked', () => {
    const { rig, fn, control, write, send, pending } = fixture();
    fn.write(control, 2, ENABLE);
    write(1, 0xfee0_0000, 0x51, true);
    send(1);
    send(1);
    expect([rig.machine.messages.sent, pending()]).toEqual([[], 2]);
    write(1, 0xfee0_0000, 0x52, false);
    expect(rig.machine.messages.sent.map(({ data }) => data)).toEqual([0x52]);
    expect(pending()).toBe(0);
  });

  test('keeps all vectors pending under the function mask', () => {
    const { rig, fn, control, write, send, pending } = fixture();
    fn.write(control, 2, MASK_ALL);
    write(0, 0xfee0_0000, 0x50, false);
    write(1, 0xfee0_0000, 0x51, false);
    send(1);
    send(0);
    expect([rig.machine.messages.sent, pending()]).toEqual([[], 3]);
    fn.write(control, 2, ENABLE);
    expect(rig.machine.messages.sent.map(({ data }) => data)).toEqual([0x50, 0x51]);
  });

  test('follows a vector that changes while it is in use', () => {
    const { rig, fn, control, write, send } = fixture();
    fn.write(control, 2, ENABLE);
    write(0, 0xfee0_0000, 0x50, false);
    send(0);
    write(0, 0xfee0_2000, 0x60, false);
    send(0);
    expect(rig.machine.messages.sent.map(({ addressLow, data }) => [addressLow, data])).toEqual([
      [0xfee0_0000, 0x50],
      [0xfee0_2000, 0x60],
    ]);
  });

  test('ignores a vector that is not there', () => {
    const { rig, fn, control, send } = fixture();
    fn.write(control, 2, ENABLE);
    send(2);
    send(0xffff);
    expect(rig.machine.messages.sent).toEqual([]);
  });

  test('ignores accesses to its table that are narrower than a dword, and writes of pending bits', () => {
    const { rig, entry, pending, fn } = fixture();
    rig.machine.write('mmio', entry(0, 2), 1, 0xff);
    rig.machine.write('mmio', entry(0, 3), 2, 0);
    rig.machine.write('mmio', fn.bar(0) + 0x3800, 4, 3);
    expect(rig.machine.read('mmio', entry(0, 2), 4)).toBe(0);
    expect(rig.machine.read('mmio', entry(0, 3), 4)).toBe(1);
    expect(pending()).toBe(0);
  });

  test('has one bit of vector control', () => {
    const { rig, entry } = fixture();
    rig.machine.write('mmio', entry(0, 3), 4, 0xffff_fffe);
    expect(rig.machine.read('mmio', entry(0, 3), 4)).toBe(0);
  });

  test('gives its routes back when it is switched off or reset', async () => {
    const { rig, fn, control, write } = fixture();
    fn.write(control, 2, ENABLE);
    write(0, 0xfee0_0000, 0x50, false);
    write(1, 0xfee0_0000, 0x51, false);
    expect(rig.machine.messages.held).toBe(2);
    fn.write(control, 2, 0);
    expect(rig.machine.messages.held).toBe(0);
    fn.write(control, 2, ENABLE);
    expect(rig.machine.messages.held).toBe(2);
    await rig.root.reset();
    expect(rig.machine.messages.held).toBe(0);
  });
});

describe('INTx', () => {
  test('is pin A of each function, with a line register for software', () => {
    const { fn } = fixture();
    expect(fn.read(0x3d, 1)).toBe(1);
    fn.write(0x3c, 1, 11);
    expect(fn.read(0x3c, 1)).toBe(11);
  });

  test('drives its line and its status bit', () => {
    const { rig, fn } = fixture();
    slotOf(rig).pin(true);
    expect([rig.lines[1].level, fn.read(6, 2) & 8]).toEqual([true, 8]);
    slotOf(rig).pin(false);
    expect([rig.lines[1].level, fn.read(6, 2) & 8]).toEqual([false, 0]);
  });

  test('does not drive its line while it is disabled, and does so again afterwards', () => {
    const { rig, fn } = fixture();
    slotOf(rig).pin(true);
    fn.write(4, 2, 0x0402);
    expect([rig.lines[1].level, fn.read(6, 2) & 8]).toEqual([false, 8]);
    fn.write(4, 2, 0x0002);
    expect(rig.lines[1].level).toBe(true);
  });

  test('is off with MSI-X', () => {
    const { rig, fn, control } = fixture();
    slotOf(rig).pin(true);
    fn.write(control, 2, ENABLE);
    expect(rig.lines[1].level).toBe(false);
  });

  test('shares a line with others: it is high until the last of them lets go', () => {
    const rig = new PciRig([new EchoDevice(), new EchoDevice(), new EchoDevice()]);
    const [first, , third] = rig.slots;
    first!.pin(true);
    third!.pin(true);
    first!.pin(false);
    expect(rig.lines[1].level).toBe(true);
    third!.pin(false);
    expect(rig.lines[1].level).toBe(false);
    expect(rig.lines[0].edges).toBe(0);
  });
});

describe('the bus as a whole', () => {
  test('is reset: functions are as at first, off the bus, and their devices too', async () => {
    const rig = new PciRig([new FieldsDevice()]);
    const fn = rig.handle(1);
    const before = Array.from({ length: 64 }, (_, i) => fn.read(4 * i, 4));
    fn.enable();
    rig.machine.write('mmio', fn.bar(0) + 20, 1, 1);
    fn.write(0x10, 4, 0xc100_0000);
    fn.write(0x3c, 1, 9);
    await rig.root.reset();
    expect(Array.from({ length: 64 }, (_, i) => fn.read(4 * i, 4))).toEqual(before);
    expect(rig.transports[0]!.core.status).toBe(0);
  });

  test('is saved and restored with BARs, vectors and what is pending', async () => {
    const one = fixture();
    one.fn.write(0x10, 4, 0xc100_0000);
    one.fn.write(one.control, 2, MASK_ALL);
    const table = 0xc100_3000;
    for (const [word, value] of [0xfee0_0000, 0, 0x51, 0].entries()) {
      one.rig.machine.write('mmio', table + 16 + 4 * word, 4, value);
    }
    one.rig.machine.settle();
    one.send(1);
    await one.rig.root.pause();
    const state: unknown = JSON.parse(JSON.stringify(one.rig.root.save()));

    const two = fixture();
    two.rig.root.restore(state);
    two.rig.root.resume();
    expect(two.fn.bar(0)).toBe(0xc100_0000);
    expect(two.rig.machine.read('mmio', 0xc100_0000 + 18, 2)).toBe(1);
    expect(two.rig.machine.messages.sent).toEqual([]);
    two.fn.write(two.control, 2, ENABLE);
    expect(two.rig.machine.messages.sent.map(({ data }) => data)).toEqual([0x51]);
  });

  test.each([
    ['other devices', (): PciRig => new PciRig([new EchoDevice()])],
    [
      'a device of another kind',
      (): PciRig => new PciRig([new EchoDevice({ queueSizes: [8] }), new FieldsDevice()]),
    ],
    ['other queues', (): PciRig => new PciRig([new EchoDevice(), new EchoDevice()])],
  ])('is not restored into %s', async (_, make) => {
    const { rig } = fixture();
    await rig.root.pause();
    const state = rig.root.save();
    expect(() => make().root.restore(state)).toThrow(/state of/);
  });

  test('leaves nothing on the bus when it is closed', () => {
    const { rig, fn } = fixture();
    const address = fn.bar(0);
    rig.root.close();
    expect(rig.machine.read('mmio', address + 18, 2)).toBe(0xffff);
    expect(fn.read(0, 4)).toBe(0xffff_ffff);
  });
});
