/**
 * Whether the KVM of this host really runs guest kernels. Its version and capabilities do not tell: a software KVM
 * has them all, runs ring 3 at full speed, and gets much of ring 0 wrong. So a guest tries (firmware/probe.S).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EXIT, exitName, INTERNAL_ERROR } from '../kvm/constants.ts';
import { GuestRam } from '../kvm/memory.ts';
import { packageRoot } from '../kvm/package-root.ts';
import type { Segment } from '../kvm/registers.ts';
import { openKvm } from '../kvm/system.ts';
import type { Vcpu, VcpuExit } from '../kvm/vcpu.ts';
import { KvmVm } from '../kvm/vm.ts';
import { HIGH_RAM, KVM_IDENTITY_MAP, KVM_TSS, MIB } from '../boot/layout.ts';

export type ProbeCheck = { readonly name: string; readonly ok: boolean; readonly detail: string };

export type ProbeResult = {
  /** guest kernels run here */
  readonly usable: boolean;
  readonly checks: readonly ProbeCheck[];
  readonly milliseconds: number;
};

const RESULT_PORT = 0xf4;
/** The slowest hardware runs a loop a hundred times faster; software KVMs reach one or two million. */
const SLOWEST_INSTRUCTIONS_PER_SECOND = 10e6;
const SPEED_TEST_MS = 4;
/** What a check may take, in ms: thousands of times what it needs, for hosts that are emulated themselves. */
const CHECK_LIMIT_MS = 2000;

const CHECKS = [
  { name: 'breakpoint', number: 1, title: 'int3 in ring 0' },
  { name: 'timer', number: 2, title: 'an interrupt of the local APIC timer' },
  { name: 'syscall', number: 3, title: 'syscall and sysret between ring 3 and ring 0' },
] as const;

type Outcome = { readonly result: number } | { readonly exit: VcpuExit } | 'timeout';

/** @throws KvmError, KvmCapabilityError where KVM cannot even be opened */
export async function probeGuests(): Promise<ProbeResult> {
  const start = performance.now();
  const image = await readFile(join(packageRoot(), 'dist/firmware/probe.bin'));
  const checks = [await measureSpeed(image)];
  for (const { name, number, title } of CHECKS) {
    const outcome = await runCheck(image, number);
    const problem = explain(outcome);
    checks.push({ name, ok: problem === undefined, detail: `${title} ${problem ?? 'works'}` });
  }
  return {
    usable: checks.every((check) => check.ok),
    checks,
    milliseconds: performance.now() - start,
  };
}

async function measureSpeed(image: Uint8Array): Promise<ProbeCheck> {
  const guest = new ProbeGuest(image, 0);
  try {
    const start = performance.now();
    guest.vm.resume();
    await new Promise((resolve) => setTimeout(resolve, SPEED_TEST_MS));
    await guest.vm.pause();
    const seconds = (performance.now() - start) / 1000;
    // the loop has two instructions
    const speed = (2 * Number(guest.vcpu.regs().rax)) / seconds;
    const millions = speed / 1e6;
    return {
      name: 'speed',
      ok: speed >= SLOWEST_INSTRUCTIONS_PER_SECOND,
      detail: `ring 0 runs ${millions.toFixed(millions < 100 ? 1 : 0)} million instructions a second`,
    };
  } finally {
    guest.close();
  }
}

async function runCheck(image: Uint8Array, number: number): Promise<Outcome> {
  const guest = new ProbeGuest(image, number);
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise<Outcome>((resolve) => {
      timer = setTimeout(() => resolve('timeout'), CHECK_LIMIT_MS);
      guest.vm.onExit = (exit) => resolve({ exit });
      guest.onResult = (result) => resolve({ result });
      guest.vm.resume();
    });
  } finally {
    clearTimeout(timer);
    guest.close();
  }
}

/** What went wrong, or undefined. */
function explain(outcome: Outcome): string | undefined {
  if (outcome === 'timeout') return `did not come within ${CHECK_LIMIT_MS} ms`;
  if ('exit' in outcome) {
    const { reason, detail } = outcome.exit;
    const suberror = new DataView(detail.buffer, detail.byteOffset).getUint32(0, true);
    if (reason === EXIT.internalError)
      return `fails: ${INTERNAL_ERROR.get(suberror) ?? `KVM internal error ${suberror}`}`;
    return `fails: the vCPU stopped (${exitName(reason)})`;
  }
  if (outcome.result === 1) return undefined;
  if (outcome.result >= 0x100) return `raises exception ${outcome.result - 0x100}`;
  return `goes wrong (step ${outcome.result})`;
}

/** A fresh VM for each check: a software KVM's failure leaves no trace in the next one. */
class ProbeGuest {
  readonly vm: KvmVm;
  readonly vcpu: Vcpu;
  readonly #ram: GuestRam;
  onResult: (result: number) => void = () => undefined;

  constructor(image: Uint8Array, check: number) {
    const kvm = openKvm();
    try {
      const ram = new GuestRam({ ranges: [{ base: 0, size: 2 * MIB }], hugePages: 'none' });
      this.#ram = ram;
      this.vm = new KvmVm(kvm, { identityMapAddress: KVM_IDENTITY_MAP, tssAddress: KVM_TSS, ram });
      this.#ram.memory.write(HIGH_RAM, image);
      this.vm.add({
        name: 'probe result',
        space: 'pio',
        base: RESULT_PORT,
        size: 4,
        reads: 'trap',
        writes: 'posted',
        write: (_offset, _size, value) => this.onResult(value),
      });
      this.vcpu = this.vm.createVcpu();
      this.vcpu.setCpuid(kvm.supportedCpuid());
      this.#enter(image, check);
    } finally {
      kvm.close();
    }
  }

  close(): void {
    this.vm.close();
    this.#ram.close();
  }

  /** 64-bit mode on the image's own tables, whose addresses are its last 16 bytes. */
  #enter(image: Uint8Array, check: number): void {
    const trailer = new DataView(image.buffer, image.byteOffset + image.length - 16, 16);
    const segment = (selector: number, type: number, long: boolean): Segment => ({
      base: 0n,
      limit: 0xffff_ffff,
      selector,
      type,
      present: 1,
      dpl: 0,
      db: long ? 0 : 1,
      s: 1,
      l: long ? 1 : 0,
      g: 1,
      avl: 0,
      unusable: 0,
    });
    const data = segment(0x10, 0x3, false);
    this.vcpu.setSregs({
      ...this.vcpu.sregs(),
      cs: segment(0x08, 0xb, true),
      ds: data,
      es: data,
      ss: data,
      gdt: { base: trailer.getBigUint64(0, true), limit: 6 * 8 - 1 },
      cr0: 0x8000_0011n,
      cr3: trailer.getBigUint64(8, true),
      cr4: 0x20n,
      efer: 0x500n,
    });
    this.vcpu.setRegs({ ...this.vcpu.regs(), rip: BigInt(HIGH_RAM), rsi: BigInt(check), rflags: 2n });
  }
}
