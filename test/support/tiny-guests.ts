import { afterEach, expect } from 'vitest';
import { EXIT } from '../../src/kvm/constants.ts';
import type { Vcpu, VcpuExit } from '../../src/kvm/vcpu.ts';
import { CODE, startRealMode, tinyVm, type TinyVm } from './real-mode.ts';
import { HLT } from './x86.ts';

/** RAM of the guests: ends below 1 MiB, so that real mode reaches addresses that are no RAM. */
export const TINY_RAM = 0x80000;

/** Makes tiny VMs out of pieces of code with a HLT behind them; all are closed after the test. */
export function tinyGuests(): (...code: readonly (readonly number[])[]) => TinyVm {
  const open: TinyVm[] = [];
  afterEach(() => {
    for (const { vm, ram } of open.splice(0)) {
      vm.close();
      ram.close();
    }
  });
  return (...code) => {
    const tiny = tinyVm([...code.flat(), HLT], TINY_RAM);
    open.push(tiny);
    return tiny;
  };
}

export async function runToHalt(guest: { run(): Promise<VcpuExit> }): Promise<void> {
  expect((await guest.run()).reason).toBe(EXIT.hlt);
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Adds vCPUs up to `count`, all about to run the code from its start; returns all. */
export function withVcpus({ vm, vcpu }: TinyVm, count: number): Vcpu[] {
  const vcpus = [vcpu];
  while (vcpus.length < count) {
    const next = vm.createVcpu();
    startRealMode(next, CODE);
    vcpus.push(next);
  }
  return vcpus;
}
