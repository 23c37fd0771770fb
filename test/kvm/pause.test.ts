import { describe, expect, test } from 'vitest';
import type { BusRegion } from '../../src/kvm/bus.ts';
import { KvmError } from '../../src/kvm/errors.ts';
import { longModeVm } from '../support/long-mode.ts';
import { sleep, runToHalt, tinyGuests, withVcpus } from '../support/tiny-guests.ts';
import { HLT, real, SPIN } from '../support/x86.ts';

const PORT = 0x500;

const guest = tinyGuests();

/** Ports that trap (offset 0) and post (offset 4); both check that the guest counts up by one. */
function checked(base = PORT): BusRegion & { wrong: number; count: number } {
  const last = [0, 0];
  const take = (offset: number, value: number): void => {
    device.count++;
    if (value !== ((last[offset / 4]! + 1) & 0xffff)) device.wrong++;
    last[offset / 4] = value;
  };
  const device: BusRegion & { wrong: number; count: number } = {
    name: 'checked',
    space: 'pio',
    base,
    size: 8,
    reads: 'trap',
    writes: [...Array<'trap'>(4).fill('trap'), ...Array<'posted'>(4).fill('posted')],
    write: (offset, _size, value) => take(offset, value),
    wrong: 0,
    count: 0,
  };
  return device;
}

/** ax counts up for ever, out to port dx and dx + 4. */
const HAMMER = real.forever([
  ...real.incAx,
  ...real.outDxAx,
  ...[0x83, 0xc2, 4], // add dx, 4
  ...real.outDxAx,
  ...[0x83, 0xea, 4], // sub dx, 4
]);

describe('pause and resume', () => {
  test('1000 rounds lose and repeat no access of a guest that hammers traps and posted writes', async () => {
    const tiny = guest(real.movDx(PORT), HAMMER);
    const device = checked();
    tiny.vm.add(device);
    for (let round = 0; round < 1000; round++) {
      tiny.vm.resume();
      if (round % 4 === 0) await new Promise((resolve) => setImmediate(resolve));
      if (round % 20 === 0) await sleep(2);
      await tiny.vm.pause();
      expect(tiny.vcpu.native.parked).toBe(true);
      tiny.vcpu.regs();
    }
    expect(device.wrong).toBe(0);
    expect(device.count).toBeGreaterThan(200);
  });

  test('four vCPUs at once', async () => {
    const tiny = guest(HAMMER);
    const vcpus = withVcpus(tiny, 4);
    const devices = vcpus.map((vcpu, i) => {
      const device = checked(PORT + 0x10 * i);
      tiny.vm.add(device);
      vcpu.setRegs({ ...vcpu.regs(), rdx: BigInt(device.base) });
      return device;
    });
    for (let round = 0; round < 200; round++) {
      tiny.vm.resume();
      if (round % 3 === 0) await sleep(1);
      await tiny.vm.pause();
      for (const vcpu of vcpus) vcpu.regs();
    }
    expect(devices.map(({ wrong }) => wrong)).toEqual([0, 0, 0, 0]);
    for (const { count } of devices) expect(count).toBeGreaterThan(50);
  });

  test('a pause that directly follows the resume is answered', async () => {
    const tiny = guest(SPIN);
    for (let round = 0; round < 1000; round++) {
      tiny.vm.resume();
      await tiny.vm.pause();
    }
    expect(tiny.vcpu.running).toBe(false);
  });

  test('the guest stands still while it is paused', async () => {
    const tiny = guest(real.movDx(PORT), HAMMER);
    const device = checked();
    tiny.vm.add(device);
    tiny.vm.resume();
    await sleep(10);
    await tiny.vm.pause();
    const [before, regs] = [device.count, tiny.vcpu.regs()];
    await sleep(20);
    expect(device.count).toBe(before);
    expect(tiny.vcpu.regs()).toEqual(regs);
  });

  test('pausing twice gives the same rest, pausing at rest is done at once', async () => {
    const tiny = guest(SPIN);
    await tiny.vm.pause();
    tiny.vm.resume();
    await Promise.all([tiny.vm.pause(), tiny.vcpu.pause(), tiny.vm.pause()]);
    tiny.vcpu.regs();
  });

  test('a vCPU that waits for JavaScript is paused after its access, which happens once', async () => {
    const tiny = guest(real.out8(PORT, 1), SPIN);
    let writes = 0;
    let paused: Promise<void> | undefined;
    const asked = new Promise<void>((resolve) => {
      tiny.vm.add({
        ...checked(),
        writes: 'trap',
        write: () => {
          writes++;
          paused = tiny.vm.pause();
          resolve();
        },
      });
    });
    tiny.vm.resume();
    await asked;
    await paused;
    expect(writes).toBe(1);
    // behind the out: its effect is complete
    expect(tiny.vcpu.regs().rip).toBe(0x1000n + 6n);
    tiny.vm.resume();
    await sleep(5);
    await tiny.vm.pause();
    expect(writes).toBe(1);
  });

  test('a read that was under way is complete when the vCPU rests', async () => {
    const tiny = guest(real.in8(PORT), SPIN);
    let paused: Promise<void> | undefined;
    const asked = new Promise<void>((resolve) => {
      tiny.vm.add({
        ...checked(),
        read: () => {
          paused = tiny.vm.pause();
          resolve();
          return 0x5a;
        },
      });
    });
    tiny.vm.resume();
    await asked;
    await paused;
    expect(tiny.vcpu.regs()).toMatchObject({ rip: 0x1004n });
    expect(tiny.vcpu.regs().rax & 0xffn).toBe(0x5an);
  });

  test('a resume while it is about to pause makes it go on after the rest', async () => {
    const tiny = guest(real.movDx(PORT), HAMMER);
    const device = checked();
    tiny.vm.add(device);
    for (let round = 0; round < 100; round++) {
      tiny.vm.resume();
      const paused = tiny.vm.pause();
      tiny.vm.resume();
      await paused;
    }
    expect(tiny.vcpu.running).toBe(true);
    const before = device.count;
    await sleep(20);
    expect(device.count).toBeGreaterThan(before);
    tiny.vm.resume();
    const last = tiny.vm.pause();
    tiny.vm.resume();
    await tiny.vm.pause();
    await last;
    expect(tiny.vcpu.running).toBe(false);
    expect(device.wrong).toBe(0);
  });

  test('a pause is also answered by a HLT that comes first', async () => {
    for (let round = 0; round < 50; round++) {
      const tiny = guest(real.movCx(round * 20), [0x49, 0x75, 0xfd]); // dec cx; jnz
      tiny.vm.resume();
      await tiny.vm.pause();
      expect(tiny.vcpu.running).toBe(false);
      tiny.vm.close();
    }
  });
});

describe('a vCPU that waits in the kernel', () => {
  test.each([
    ['for an interrupt, in HLT', [HLT, 0xeb, 0xfd]],
    ['for an interrupt that is masked, and one for its start-up', [HLT, HLT]],
  ])('%s, is paused and resumed, and uses no processor time', async (_, code) => {
    const { vm, ram, vcpu } = longModeVm(code, { irqchip: true });
    const second = vm.createVcpu();
    vm.onExit = () => expect.unreachable();
    for (let round = 0; round < 50; round++) {
      vm.resume();
      if (round % 10 === 0) await sleep(2);
      await vm.pause();
      vcpu.regs();
      second.regs();
    }
    vm.resume();
    const { user, system } = process.cpuUsage();
    await sleep(200);
    const used = process.cpuUsage({ user, system });
    expect((used.user + used.system) / 1000).toBeLessThan(150);
    await vm.pause();
    vm.close();
    ram.close();
  });
});

describe('registers', () => {
  test('are refused while the vCPU runs, with EBUSY', async () => {
    const tiny = guest(SPIN);
    tiny.vm.resume();
    const refused = (access: () => unknown): string => {
      try {
        access();
        return 'allowed';
      } catch (error) {
        return error instanceof KvmError ? error.code : String(error);
      }
    };
    const { native } = tiny.vcpu;
    // from the very first moment on, and later
    for (const wait of [0, 5]) {
      if (wait > 0) await sleep(wait);
      expect(refused(() => tiny.vcpu.regs())).toBe('EBUSY');
      expect(refused(() => native.setState('regs', new Uint8Array(144)))).toBe('EBUSY');
      expect(refused(() => native.getMsrs(Uint32Array.of(0x10)))).toBe('EBUSY');
      expect(refused(() => native.getCpuid())).toBe('EBUSY');
      expect(refused(() => native.translate(0n))).toBe('EBUSY');
      expect(refused(() => native.control('nmi'))).toBe('EBUSY');
    }
    await tiny.vm.pause();
    expect(refused(() => tiny.vcpu.regs())).toBe('allowed');
  });

  test('that are changed while it rests are what it goes on with', async () => {
    const tiny = guest(SPIN, real.storeAx(0x600), [HLT]);
    tiny.vm.resume();
    await tiny.vm.pause();
    tiny.vcpu.setRegs({ ...tiny.vcpu.regs(), rip: 0x1002n, rax: 0x1234n });
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU16(0x600)).toBe(0x1234);
  });
});

test('one vCPU that is resumed on its own runs, and keeps the process alive like all of them', async () => {
  const tiny = guest(real.incAx);
  const exits = new Promise<number>((resolve) => (tiny.vm.onExit = ({ vcpu }) => resolve(vcpu)));
  const [, second] = withVcpus(tiny, 2);
  second!.resume();
  expect(await exits).toBe(1);
  expect(tiny.vcpu.regs().rip).toBe(0x1000n);
});
