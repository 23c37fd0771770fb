import { describe, expect, test } from 'vitest';
import type { BusRegion } from '../../src/kvm/bus.ts';
import { runToHalt, sleep, tinyGuests } from '../support/tiny-guests.ts';
import { HLT, real } from '../support/x86.ts';

const PORT = 0x500;
const OUT = 0x600;

const guest = tinyGuests();

type Call = [name: string, offset: number, size: number, value?: number];

/** Reads give the offset of each byte, with `high` in its upper half. */
function region(name: string, base: number, size: number, calls: Call[], high = 0): BusRegion {
  return {
    name,
    space: 'pio',
    base,
    size,
    reads: 'trap',
    writes: 'trap',
    read: (offset, width) => {
      calls.push([name, offset, width]);
      return [0, 1, 2, 3].reduce((value, i) => value + ((high | (offset + i)) << (8 * i)), 0);
    },
    write: (offset, width, value) => void calls.push([name, offset, width, value]),
  };
}

describe('the edges of regions', () => {
  test('a read over the end gets the rest from an empty bus', async () => {
    const calls: Call[] = [];
    const tiny = guest(real.in32(PORT + 1), real.storeEax(OUT));
    tiny.vm.add(region('a', PORT, 4, calls, 0x10));
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0xff131211);
    expect(calls).toEqual([
      ['a', 1, 2],
      ['a', 3, 1],
    ]);
  });

  test('a read that starts in front of a region gets its last bytes from there', async () => {
    const tiny = guest(real.in32(PORT - 1), real.storeEax(OUT));
    tiny.vm.add(region('a', PORT, 4, [], 0x10));
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0x121110ff);
  });

  test('an access over two regions is served by both', async () => {
    const calls: Call[] = [];
    const tiny = guest(real.in32(PORT + 3), real.storeEax(OUT), real.out32(PORT + 2, 0x44332211));
    tiny.vm.add(region('a', PORT, 4, calls, 0x10));
    tiny.vm.add(region('b', PORT + 4, 4, calls, 0x20));
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0x22212013);
    expect(calls).toEqual([
      ['a', 3, 1],
      ['b', 0, 2],
      ['b', 2, 1],
      ['a', 2, 2, 0x2211],
      ['b', 0, 2, 0x4433],
    ]);
  });

  test('an access over the last port ends there', async () => {
    const calls: Call[] = [];
    const tiny = guest(real.out32(0xffff, 0x44332211), real.in32(0xffff), real.storeEax(OUT));
    tiny.vm.add(region('last', 0xfff8, 8, calls, 0x10));
    await runToHalt(tiny);
    expect(calls[0]).toEqual(['last', 7, 1, 0x11]);
    expect(tiny.ram.memory.readU8(OUT)).toBe(0x17);
  });
});

describe('nobody there', () => {
  test('reads of ports and of memory are all ones, writes go nowhere, both are counted', async () => {
    const tiny = guest(
      real.movEax(0),
      real.in32(PORT),
      real.storeEax(OUT),
      real.out32(PORT, 1),
      real.movDs(0xd000),
      real.movEax(0),
      real.loadEax(0x10),
      real.storeEax(0x20),
      real.movDx(0),
      [0x8e, 0xda], // mov ds, dx
      real.storeEax(OUT + 4),
    );
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0xffffffff);
    expect(tiny.ram.memory.readU32(OUT + 4)).toBe(0xffffffff);
    expect(tiny.vm.counters()).toEqual([{ name: 'unclaimed', reads: 4, writes: 0, waits: 0 }]);
  });
});

describe('string instructions', () => {
  test('rep outsb and outsw send every item of the buffer in order', async () => {
    const calls: Call[] = [];
    const tiny = guest(
      real.movDx(PORT),
      real.movSi(0x2000),
      real.movCx(100),
      real.outsb,
      real.movSi(0x2000),
      real.movCx(50),
      real.outsw,
    );
    const data = Uint8Array.from({ length: 100 }, (_, i) => (i * 7) & 0xff);
    tiny.ram.memory.write(0x2000, data);
    tiny.vm.add({ ...region('a', PORT, 4, calls), writes: 'posted' });
    await runToHalt(tiny);
    expect(calls.slice(0, 100).map((call) => call[3])).toEqual([...data]);
    const words = new Uint16Array(data.buffer);
    expect(calls.slice(100)).toEqual([...words].map((value) => ['a', 0, 2, value]));
  });

  test('rep insb fills the buffer item by item', async () => {
    const tiny = guest(real.movDx(PORT), real.movDi(0x2000), real.movCx(300), real.insb);
    let next = 0;
    tiny.vm.add({ ...region('a', PORT, 1, []), read: () => next++ });
    await runToHalt(tiny);
    expect([...tiny.ram.memory.read(0x2000, 301)]).toEqual([
      ...Array.from({ length: 300 }, (_, i) => i & 0xff),
      0,
    ]);
  });
});

describe('regions that come and go', () => {
  test('one that overlaps is refused, naming both', () => {
    const tiny = guest();
    tiny.vm.add(region('serial', 0x3f8, 8, []));
    expect(() => tiny.vm.add(region('other', 0x3ff, 2, []))).toThrow(
      new RangeError('other at 0x3ff overlaps serial at 0x3f8'),
    );
    tiny.vm.add(region('behind', 0x400, 1, []));
    tiny.vm.add({ ...region('memory', 0x3f8, 8, []), space: 'mmio' });
  });

  test('a region that was removed gets no more calls, its place is free', async () => {
    const calls: Call[] = [];
    const tiny = guest(real.out8(PORT, 1), [HLT], real.out8(PORT, 2), [HLT], real.out8(PORT, 3));
    const handle = tiny.vm.add(region('a', PORT, 4, calls));
    await runToHalt(tiny);
    handle.remove();
    handle.remove();
    await runToHalt(tiny);
    tiny.vm.add(region('b', PORT, 4, calls));
    await runToHalt(tiny);
    expect(calls).toEqual([
      ['a', 0, 1, 1],
      ['b', 0, 1, 3],
    ]);
  });

  test('a device may remove its own region from within a callback, posted writes behind it are dropped', async () => {
    const calls: Call[] = [];
    const tiny = guest(real.out8(PORT, 1), real.out8(PORT, 2), real.out8(PORT, 3));
    const handle = tiny.vm.add({
      ...region('a', PORT, 1, calls),
      writes: 'posted',
      write: (_offset, _size, value) => {
        calls.push(['a', 0, 1, value]);
        handle.remove();
      },
    });
    await runToHalt(tiny);
    expect(calls).toEqual([['a', 0, 1, 1]]);
  });

  test('regions move while the guest runs, and every read is answered by one of them or by none', async () => {
    // counts answers that are neither 'a', 'b' nor an empty bus in ebx
    const body = [
      ...real.inAlDx,
      ...[0x3c, 0x61, 0x74, 10], // cmp al, 'a'; je +10
      ...[0x3c, 0x62, 0x74, 6], // cmp al, 'b'; je +6
      ...[0x3c, 0xff, 0x74, 2], // cmp al, 0xff; je +2
      ...[0x66, 0x43], // inc ebx
    ];
    const tiny = guest(real.movDx(PORT), real.forever(body));
    let answers = 0;
    const put = (letter: string) =>
      tiny.vm.add({
        ...region(letter, PORT, 1, []),
        read: () => {
          answers++;
          return letter.charCodeAt(0);
        },
      });
    let handle = put('a');
    tiny.vm.resume();
    for (let i = 0; i < 300; i++) {
      handle.remove();
      if (i % 3 === 0) await sleep(1);
      handle = put(i % 2 ? 'a' : 'b');
      if (i % 5 === 0) await sleep(1);
    }
    await tiny.vm.pause();
    expect(tiny.vcpu.regs().rbx & 0xffffffffn).toBe(0n);
    expect(answers).toBeGreaterThan(10);
  });

  test('regions that were removed leave nothing behind in the counters', () => {
    const tiny = guest();
    for (let i = 0; i < 1000; i++) tiny.vm.add(region('bar', PORT + i, 4, [])).remove();
    expect(tiny.vm.counters().map(({ name }) => name)).toEqual(['unclaimed']);
  });
});
