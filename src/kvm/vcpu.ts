import { encodeCpuid, type CpuidEntry } from './cpuid-entry.ts';
import { KvmError } from './errors.ts';
import type { NativeVcpu, VcpuStateName } from './native.ts';
import {
  decodeRegs,
  decodeSregs,
  encodeRegs,
  encodeSregs,
  type GeneralRegisters,
  type SpecialRegisters,
} from './registers.ts';

/** Why a vCPU stopped by itself. */
export type VcpuExit = {
  readonly vcpu: number;
  /** one of `EXIT` */
  readonly reason: number;
  /** of KVM_RUN, where the reason is `EXIT.runFailed` */
  readonly errno: number;
  /** the exit's part of struct kvm_run, 256 bytes */
  readonly detail: Uint8Array;
};

/** What became of a list of MSRs: KVM refuses some one by one, which is no failure of the others. */
export type MsrResult = { readonly values: Map<number, bigint>; readonly refused: number[] };

/**
 * One virtual CPU. It has a thread of its own, which rests until {@link resume}; registers can be read and written
 * only while it rests (KvmError EBUSY else).
 */
export class Vcpu {
  readonly index: number;
  readonly native: NativeVcpu;
  readonly #onResume: () => void;
  #cpuid: Uint8Array = new Uint8Array(0);
  #running = false;
  #pausing: { promise: Promise<void>; done: () => void } | undefined;
  /** resumed while it was about to pause */
  #resumeAgain = false;

  /** @param onResume called before the thread runs */
  constructor(index: number, handle: NativeVcpu, onResume: () => void) {
    this.index = index;
    this.native = handle;
    this.#onResume = onResume;
  }

  get running(): boolean {
    return this.#running;
  }

  /** Lets it run. After a {@link pause} that is still under way, it does as soon as it has come to rest. */
  resume(): void {
    if (this.#pausing !== undefined) this.#resumeAgain = true;
    if (this.#running) return;
    this.#onResume();
    this.#running = true;
    this.native.resume();
  }

  /** Resolves when the vCPU rests between two instructions, its last access complete. */
  pause(): Promise<void> {
    this.#resumeAgain = false;
    if (!this.#running) return Promise.resolve();
    if (this.#pausing === undefined) {
      let done: () => void = () => undefined;
      const promise = new Promise<void>((resolve) => (done = resolve));
      this.#pausing = { promise, done };
      this.native.requestPause();
    }
    return this.#pausing.promise;
  }

  /** The vCPU's thread has come to rest: as asked to, by itself, or for good. Called by the VM. */
  rested(why: 'paused' | 'exit' | 'closed'): void {
    this.#running = false;
    const pausing = this.#pausing;
    this.#pausing = undefined;
    pausing?.done();
    if (this.#resumeAgain && why === 'paused') this.resume();
    this.#resumeAgain = false;
  }

  regs(): GeneralRegisters {
    return decodeRegs(this.native.getState('regs'));
  }

  setRegs(regs: GeneralRegisters): void {
    this.native.setState('regs', encodeRegs(regs));
  }

  sregs(): SpecialRegisters {
    return decodeSregs(this.native.getState('sregs'));
  }

  setSregs(sregs: SpecialRegisters): void {
    this.native.setState('sregs', encodeSregs(sregs));
  }

  /** Bytes of one of the kernel's structures: what snapshots keep. */
  state(name: VcpuStateName): Uint8Array {
    return this.native.getState(name);
  }

  setState(name: VcpuStateName, bytes: Uint8Array): void {
    this.native.setState(name, bytes);
  }

  setCpuid(entries: readonly CpuidEntry[]): void {
    this.setEncodedCpuid(encodeCpuid(entries));
  }

  /** @param bytes struct kvm_cpuid2 */
  setEncodedCpuid(bytes: Uint8Array): void {
    this.native.setCpuid(bytes);
    this.#cpuid = bytes;
  }

  /** As it was set: KVM adds what follows from the rest of its state. */
  get encodedCpuid(): Uint8Array {
    return this.#cpuid;
  }

  /** Reads MSRs; those that KVM refuses are named in the result. */
  msrs(indices: readonly number[]): MsrResult {
    const values = new Map<number, bigint>();
    const refused: number[] = [];
    for (let at = 0; at < indices.length;) {
      const got = this.native.getMsrs(Uint32Array.from(indices.slice(at)));
      got.forEach((value, i) => values.set(indices[at + i]!, value));
      at += got.length;
      if (at < indices.length) refused.push(indices[at++]!);
    }
    return { values, refused };
  }

  /** Writes MSRs in the map's order; returns those that KVM refused. */
  setMsrs(msrs: ReadonlyMap<number, bigint>): number[] {
    const indices = [...msrs.keys()];
    const values = [...msrs.values()];
    const refused: number[] = [];
    for (let at = 0; at < indices.length;) {
      at += this.native.setMsrs(Uint32Array.from(indices.slice(at)), BigUint64Array.from(values.slice(at)));
      if (at < indices.length) refused.push(indices[at++]!);
    }
    return refused;
  }

  /** Frequency of the guest's TSC in kHz; undefined where KVM does not know it. */
  tscKhz(): number | undefined {
    const khz = this.native.control('tscKhz');
    return khz > 0 ? khz : undefined;
  }

  /** Has kvmclock tell the guest that it stood still (KVM_KVMCLOCK_CTRL), where the guest uses that. */
  tellOfPause(): void {
    try {
      this.native.control('kvmclockPaused');
    } catch (error) {
      if (!(error instanceof KvmError && (error.code === 'EINVAL' || error.code === 'EBUSY'))) throw error;
    }
  }

  /** Guest-physical address of a linear one, by the vCPU's page tables; undefined where nothing is mapped. */
  translate(address: bigint): number | undefined {
    return this.native.translate(address);
  }

  /** Exits so far by reason (`EXIT`). */
  exitCounts(): Map<number, number> {
    const counts = new Map<number, number>();
    this.native.exitCounts().forEach((count, reason) => {
      if (count > 0) counts.set(reason, count);
    });
    return counts;
  }
}
