import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MP_STATE } from '../../src/kvm/constants.ts';
import { decodeCpuid } from '../../src/kvm/cpuid-entry.ts';
import type { VcpuStateName } from '../../src/kvm/native.ts';
import { openKvm, type Kvm } from '../../src/kvm/system.ts';
import { longModeVm, type LongModeVm } from '../support/long-mode.ts';

const HLT = 0xf4;

let kvm: Kvm;
let guest: LongModeVm;
beforeAll(() => {
  kvm = openKvm();
  guest = longModeVm([HLT], { irqchip: true });
});
afterAll(() => {
  kvm.close();
  guest.vm.close();
  guest.ram.close();
});

describe('state as the kernel keeps it', () => {
  const sizes: [VcpuStateName, number][] = [
    ['regs', 144],
    ['sregs', 312],
    ['fpu', 416],
    ['xcrs', 392],
    ['debugregs', 128],
    ['lapic', 1024],
    ['mpState', 4],
    ['events', 64],
  ];

  test.each(sizes)('%s has %d bytes, and is the same after it was set', (name, size) => {
    const state = guest.vcpu.state(name);
    expect(state).toHaveLength(size);
    guest.vcpu.setState(name, state);
    expect(guest.vcpu.state(name)).toEqual(state);
    // a copy, not a view of something that changes
    state.fill(0xff);
    expect(guest.vcpu.state(name)).not.toEqual(state);
  });

  test('xsave has 4 KiB or more, and is the same after it was set', () => {
    const state = guest.vcpu.state('xsave');
    expect(state.length).toBeGreaterThanOrEqual(4096);
    expect(state.length).toBe(Math.max(4096, guest.vm.capability('KVM_CAP_XSAVE2')));
    guest.vcpu.setState('xsave', state);
    expect(guest.vcpu.state('xsave')).toEqual(state);
  });

  test.each(sizes)('%s of another size is refused', (name, size) => {
    for (const wrong of [0, size - 1, size + 1]) {
      expect(() => guest.vcpu.setState(name, new Uint8Array(wrong))).toThrow(
        new RangeError(`${name} has ${size} bytes, not ${wrong}`),
      );
    }
  });

  test('any typed array is taken by its bytes, at its place in its buffer', () => {
    const regs = guest.vcpu.state('regs');
    const shifted = new Uint8Array(regs.length + 16);
    shifted.set(regs, 8);
    shifted[8] = 0x77;
    guest.vcpu.native.setState('regs', new BigUint64Array(shifted.buffer, 8, 18) as never);
    expect(guest.vcpu.regs().rax & 0xffn).toBe(0x77n);
  });
});

describe('registers by name', () => {
  test('general registers come back as they were set', () => {
    const before = guest.vcpu.regs();
    const names = Object.keys(before).filter((name) => name !== 'rflags') as (keyof typeof before)[];
    const regs = { ...before };
    // canonical, for rip
    names.forEach((name, i) => (regs[name] = 0x0000_1234_5678_9a00n + BigInt(i)));
    guest.vcpu.setRegs(regs);
    expect(guest.vcpu.regs()).toEqual(regs);
    guest.vcpu.setRegs({ ...before, rax: 2n ** 64n - 1n });
    expect(guest.vcpu.regs().rax).toBe(2n ** 64n - 1n);
    guest.vcpu.setRegs(before);
  });

  test('special registers come back as they were set', () => {
    const before = guest.vcpu.sregs();
    expect(before).toMatchObject({ cr0: 0x80000011n, cr3: 0x10000n, efer: 0x500n });
    expect(before.cs).toMatchObject({ selector: 8, l: 1, db: 0, s: 1, present: 1 });
    const sregs = {
      ...before,
      cr2: 0xdead000n,
      cr8: 5n,
      gs: { ...before.gs, base: 0x7fff_0000_1000n },
      gdt: { base: 0x5000n, limit: 0x37 },
    };
    guest.vcpu.setSregs(sregs);
    expect(guest.vcpu.sregs()).toEqual(sregs);
    guest.vcpu.setSregs(before);
  });

  test('special registers that no processor can have are refused by KVM', () => {
    const sregs = guest.vcpu.sregs();
    // long mode without PAE
    expect(() => guest.vcpu.setSregs({ ...sregs, cr4: 0n })).toThrow('ioctl KVM_SET_SREGS: EINVAL');
  });
});

describe('MSRs', () => {
  const STAR = 0xc0000081;
  const LSTAR = 0xc0000082;
  const KERNEL_GS_BASE = 0xc0000102;
  const SYSENTER_CS = 0x174;
  const NOBODYS = 0x4b564dff;

  test('values come back as they were set, to 64 bits', () => {
    const values = new Map([
      [STAR, 0x0023_0010_0000_0000n],
      [LSTAR, 0xffff_ffff_8123_4567n],
      [SYSENTER_CS, 0x10n],
    ]);
    expect(guest.vcpu.setMsrs(values)).toEqual([]);
    expect(guest.vcpu.msrs([...values.keys()])).toEqual({ values, refused: [] });
  });

  test('those that KVM refuses are named, the others are read and written', () => {
    const values = new Map([
      [LSTAR, 0x1000n],
      [NOBODYS, 1n],
      [STAR, 0x2000_0000_0000n],
      [NOBODYS + 1, 1n],
      [KERNEL_GS_BASE, 0x3000n],
    ]);
    expect(guest.vcpu.setMsrs(values)).toEqual([NOBODYS, NOBODYS + 1]);
    const read = guest.vcpu.msrs([NOBODYS, LSTAR, NOBODYS + 1, STAR, KERNEL_GS_BASE]);
    expect(read.refused).toEqual([NOBODYS, NOBODYS + 1]);
    expect(read.values).toEqual(
      new Map([
        [LSTAR, 0x1000n],
        [STAR, 0x2000_0000_0000n],
        [KERNEL_GS_BASE, 0x3000n],
      ]),
    );
  });

  test('all that KVM says it keeps can be read, but for a few that the guest has no feature for', () => {
    const indices = [...kvm.msrIndices()];
    expect(indices).toEqual(expect.arrayContaining([STAR, LSTAR, SYSENTER_CS, 0x10]));
    const { values, refused } = guest.vcpu.msrs(indices);
    expect(values.size + refused.length).toBe(new Set(indices).size);
    expect(refused.length).toBeLessThan(indices.length / 4);
  });

  test('none is no error', () => {
    expect(guest.vcpu.msrs([])).toEqual({ values: new Map(), refused: [] });
    expect(guest.vcpu.setMsrs(new Map())).toEqual([]);
  });

  test('more than 4096 at once are refused', () => {
    expect(() => guest.vcpu.native.getMsrs(new Uint32Array(4097))).toThrow(RangeError);
    expect(() => guest.vcpu.native.setMsrs(new Uint32Array(2), new BigUint64Array(1))).toThrow(RangeError);
  });
});

describe('CPUID', () => {
  test('a table that was set is what the vCPU has', () => {
    const { vm, ram, vcpu } = longModeVm([HLT]);
    const entries = kvm.supportedCpuid().filter(({ function: leaf }) => leaf === 0 || leaf === 0x80000000);
    const changed = entries.map((entry) => (entry.function === 0 ? { ...entry, ebx: 0x4d565354 } : entry));
    vcpu.setCpuid(changed);
    // KVM may add leaves that hang on the vCPU's state
    expect(decodeCpuid(vcpu.native.getCpuid())).toEqual(expect.arrayContaining(changed));
    vm.close();
    ram.close();
  });

  test('what KVM supports has the basic leaves', () => {
    const leaves = kvm.supportedCpuid().map(({ function: leaf }) => leaf);
    expect(leaves).toEqual(expect.arrayContaining([0, 1, 0x80000000, 0x80000001]));
  });
});

describe('other state', () => {
  test('the multiprocessing state says whether a vCPU waits', () => {
    const second = guest.vm.createVcpu();
    expect(new Uint32Array(second.state('mpState').buffer)[0]).toBe(MP_STATE.uninitialized);
    second.setState('mpState', new Uint8Array(Uint32Array.of(MP_STATE.runnable).buffer));
    expect(new Uint32Array(second.state('mpState').buffer)[0]).toBe(MP_STATE.runnable);
  });

  test('linear addresses are translated by the page tables', () => {
    expect(guest.vcpu.translate(0x1234n)).toBe(0x1234);
    expect(guest.vcpu.translate(7n * 2n ** 30n + 5n)).toBe(7 * 2 ** 30 + 5);
    expect(guest.vcpu.translate(8n * 2n ** 30n)).toBeUndefined();
    expect(() => guest.vcpu.translate(-1n)).toThrow(RangeError);
    expect(() => guest.vcpu.translate(2n ** 64n)).toThrow(RangeError);
  });

  test('the clock, the PICs, the I/O APIC and the PIT come back as they were set', async () => {
    const { KvmVm } = await import('../../src/kvm/vm.ts');
    const { KVM_IDENTITY_MAP, KVM_TSS } = await import('../../src/boot/layout.ts');
    const vm = new KvmVm(kvm, { identityMapAddress: KVM_IDENTITY_MAP, tssAddress: KVM_TSS });
    for (const chip of [0, 1, 2]) {
      const state = vm.native.getState('irqchip', chip);
      expect(state[0]).toBe(chip);
      vm.native.setState('irqchip', state);
      expect(vm.native.getState('irqchip', chip)).toEqual(state);
    }
    const pit = vm.native.getState('pit2');
    expect(pit).toHaveLength(112);
    vm.native.setState('pit2', pit);
    const clock = vm.native.getState('clock');
    expect(clock).toHaveLength(48);
    const nanoseconds = (bytes: Uint8Array) => new DataView(bytes.buffer).getBigUint64(0, true);
    const later = Uint8Array.from(clock);
    // the flags say what the kernel filled in: only the clock itself is to be set
    later.fill(0, 8);
    new DataView(later.buffer).setBigUint64(0, nanoseconds(clock) + 3_600_000_000_000n, true);
    vm.native.setState('clock', later);
    expect(nanoseconds(vm.native.getState('clock')) - nanoseconds(clock)).toBeGreaterThanOrEqual(
      3_600_000_000_000n,
    );
    vm.close();
  });

  test('control requests', () => {
    expect(guest.vcpu.native.control('tscKhz')).toBeGreaterThan(100_000);
    expect(guest.vcpu.native.control('nmi')).toBe(0);
    expect(() => guest.vcpu.native.control('reset' as never)).toThrow(RangeError);
  });
});
