import { decodeRegs } from '../../src/kvm/registers.ts';
import type { HostTsvm } from './tsvm.ts';

const MSR_LSTAR = 0xc000_0082;
/** Registers of the local APIC: 256 bits each in 8 words that are 16 bytes apart, and its timer. */
const APIC = { tpr: 0x80, isr: 0x100, irr: 0x200, timer: 0x320, initial: 0x380 };

type State = {
  readonly machine: {
    readonly board: {
      readonly vcpus: readonly {
        readonly regs: string;
        readonly lapic: string;
        readonly events: string;
        readonly msrs: readonly (readonly [number, string])[];
      }[];
      readonly vm: { readonly clock: string };
    };
  };
};

/**
 * Where the vCPUs of a guest are that does not answer any more, at two times: what tells a lost interrupt from a loop,
 * and from the fault of the emulator that test/lab/lab.ts tells of.
 * LSTAR, which is entry_SYSCALL_64, tells how far a kernel was moved. Does not reject.
 */
export async function whereItIs(tsvm: HostTsvm, name: string): Promise<string> {
  const lines: string[] = [];
  for (const snapshot of ['stuck-1', 'stuck-2']) {
    try {
      await tsvm.ok('snapshot', 'create', name, snapshot);
      const text = await tsvm.shell(`cat 'vms/${name}/snapshots/${snapshot}/state.json'`);
      const { vcpus, vm } = (JSON.parse(text) as State).machine.board;
      lines.push(`${snapshot}: clock ${vm.clock}`);
      for (const { regs, lapic, events, msrs } of vcpus) {
        const apic = Buffer.from(lapic, 'base64');
        const bits = (at: number): string =>
          Array.from({ length: 8 }, (_, i) => apic.readUInt32LE(at + 16 * i).toString(16)).join(' ');
        const lstar = msrs.find(([index]) => index === MSR_LSTAR)?.[1];
        lines.push(
          Object.entries(decodeRegs(Buffer.from(regs, 'base64')))
            .map(([each, value]) => `${each} ${value.toString(16)}`)
            .join(', '),
          `LSTAR ${lstar}, events ${Buffer.from(events, 'base64').toString('hex')}`,
          `APIC: TPR ${apic.readUInt32LE(APIC.tpr)}, ISR ${bits(APIC.isr)}, IRR ${bits(APIC.irr)}, ` +
            `timer ${apic.readUInt32LE(APIC.timer).toString(16)}, count ${apic.readUInt32LE(APIC.initial)}`,
        );
      }
    } catch (error) {
      lines.push(`${snapshot}: ${String(error)}`);
    }
  }
  return lines.join('\n');
}
