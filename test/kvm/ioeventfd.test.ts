import { afterEach, describe, expect, test, vi } from 'vitest';
import { createEventFd, type EventFd } from '../../src/kvm/events.ts';
import { runToHalt, sleep, tinyGuests } from '../support/tiny-guests.ts';
import { real } from '../support/x86.ts';

const PORT = 0x500;
const MMIO = 0xd0000;

const guest = tinyGuests();
const fds: EventFd[] = [];
afterEach(() => {
  for (const fd of fds.splice(0)) fd.close();
});

function eventFd(): EventFd {
  const fd = createEventFd();
  fds.push(fd);
  return fd;
}

describe.each([
  {
    space: 'pio' as const,
    address: PORT,
    write16: (at: number, value: number) => real.out16(PORT + at, value),
  },
  {
    space: 'mmio' as const,
    address: MMIO,
    write16: (at: number, value: number) => [
      ...real.movDs(MMIO >> 4),
      ...real.movAx(value),
      ...real.storeAx(at),
    ],
  },
])('an ioeventfd in $space', ({ space, address, write16 }) => {
  test('takes every write of its size, and the region under it sees none', async () => {
    const tiny = guest(write16(0, 1), write16(0, 2), write16(2, 3));
    const seen: number[][] = [];
    tiny.vm.add({
      name: 'device',
      space,
      base: address,
      size: 4,
      reads: 'trap',
      writes: 'posted',
      write: (...access) => void seen.push(access),
    });
    const fd = eventFd();
    tiny.vm.native.ioeventfd({ fd: fd.fd, space, address, size: 2 });
    await runToHalt(tiny);
    expect(fd.drain()).toBe(2);
    expect(seen).toEqual([[2, 2, 3]]);
  });

  test('with a datamatch takes the writes of that value alone', async () => {
    const tiny = guest(write16(0, 1), write16(0, 2), write16(0, 3), write16(0, 2));
    const seen: number[] = [];
    tiny.vm.add({
      name: 'device',
      space,
      base: address,
      size: 4,
      reads: 'trap',
      writes: 'posted',
      write: (_offset, _size, value) => void seen.push(value),
    });
    const [two, three] = [eventFd(), eventFd()];
    tiny.vm.native.ioeventfd({ fd: two.fd, space, address, size: 2, datamatch: 2 });
    tiny.vm.native.ioeventfd({ fd: three.fd, space, address, size: 2, datamatch: 3 });
    await runToHalt(tiny);
    expect([two.drain(), three.drain()]).toEqual([2, 1]);
    expect(seen).toEqual([1]);
  });

  test('wakes JavaScript while it is watched, and is gone when it is removed', async () => {
    const tiny = guest(write16(0, 1), [0xf4], write16(0, 2));
    const fd = eventFd();
    let events = 0;
    fd.onEvent = (count) => (events += count);
    fd.watch();
    tiny.vm.native.ioeventfd({ fd: fd.fd, space, address, size: 2 });
    await runToHalt(tiny);
    await vi.waitFor(() => expect(events).toBe(1));
    tiny.vm.native.ioeventfd({ fd: fd.fd, space, address, size: 2, remove: true });
    await runToHalt(tiny);
    await sleep(10);
    expect(events).toBe(1);
    expect(tiny.vm.counters().at(-1)).toMatchObject({ name: 'unclaimed', reads: 1 });
  });
});
