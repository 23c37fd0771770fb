import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { EXIT, exitName } from '../../src/kvm/constants.ts';
import { GuestRam } from '../../src/kvm/memory.ts';
import { longModeVm } from '../support/long-mode.ts';
import { runToHalt, tinyGuests } from '../support/tiny-guests.ts';
import { HLT, real } from '../support/x86.ts';

const guest = tinyGuests();

describe('exits that end a run', () => {
  test('HLT, without an interrupt controller', async () => {
    const tiny = guest();
    const exit = await tiny.run();
    expect({ ...exit, detail: exit.detail.length }).toEqual({
      vcpu: 0,
      reason: EXIT.hlt,
      errno: 0,
      detail: 256,
    });
    expect(tiny.vcpu.running).toBe(false);
    expect(tiny.vcpu.exitCounts().get(EXIT.hlt)).toBe(1);
  });

  test('a guest goes on behind its HLT, with the registers it has been given', async () => {
    const tiny = guest(real.incAx, [HLT], real.incAx, [HLT], real.incAx);
    await runToHalt(tiny);
    expect(tiny.vcpu.regs().rax).toBe(1n);
    tiny.vcpu.setRegs({ ...tiny.vcpu.regs(), rax: 0x10n });
    await runToHalt(tiny);
    expect(tiny.vcpu.regs().rax).toBe(0x11n);
    tiny.vcpu.setRegs({ ...tiny.vcpu.regs(), rip: 0x1000n });
    await runToHalt(tiny);
    expect(tiny.vcpu.regs().rax).toBe(0x12n);
  });

  test('SHUTDOWN after a triple fault', async () => {
    const long = longModeVm([0x0f, 0x0b]); // ud2
    const { vm, ram, vcpu } = long;
    vcpu.setSregs({ ...vcpu.sregs(), idt: { base: 0n, limit: 0 } });
    expect(exitName((await long.run()).reason)).toBe('shutdown');
    expect(vcpu.running).toBe(false);
    vm.close();
    ram.close();
  });

  test('an instruction that KVM would have to emulate and cannot: INTERNAL_ERROR with its suberror', async () => {
    // fetched from where no RAM is: every instruction has to be emulated, and there is none
    const tiny = guest();
    const sregs = tiny.vcpu.sregs();
    tiny.vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0xd0000n, selector: 0xd000 } });
    const exit = await tiny.run();
    expect(exitName(exit.reason)).toBe('internalError');
    expect(new DataView(exit.detail.buffer, exit.detail.byteOffset).getUint32(0, true)).toBe(1);
  });

  test('KVM_RUN that fails gives its errno', async ({ skip }) => {
    // the pages that the guest is to run in are gone from the host
    const folder = mkdtempSync(join(tmpdir(), 'tsvm-exits-'));
    const path = join(folder, 'ram');
    writeFileSync(path, new Uint8Array(0x10000));
    const tiny = guest();
    const ram = new GuestRam({
      ranges: [{ base: 0, size: 0x10000 }],
      backing: { kind: 'file', path, shared: true },
    });
    truncateSync(path, 0);
    tiny.vm.native.setMemory({ slot: 0, address: 0, size: 0 });
    tiny.vm.mapRam(ram);
    const exit = await tiny.run();
    skip(exit.reason === EXIT.internalError, 'this KVM interprets ring 0 and meets the missing page itself');
    expect({ reason: exit.reason, errno: exit.errno }).toEqual({
      reason: EXIT.runFailed,
      errno: constants.errno.EFAULT,
    });
    expect(tiny.vcpu.running).toBe(false);
    tiny.vm.close();
    ram.close();
    rmSync(folder, { recursive: true });
  });
});

describe('the counts of exits', () => {
  test('say how often and why KVM_RUN returned, also when the VM is closed', async () => {
    const tiny = guest(real.out8(0x500, 1), real.out8(0x500, 2), real.movDs(0xd000), real.loadAl(0));
    await runToHalt(tiny);
    tiny.vm.close();
    const counts = tiny.vcpu.exitCounts();
    expect([EXIT.io, EXIT.mmio, EXIT.hlt].map((reason) => counts.get(reason))).toEqual([2, 1, 1]);
  });
});
