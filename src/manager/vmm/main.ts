import { closeSync, writeSync } from 'node:fs';
import { errorDetails } from '../control/errors.ts';
import { REPORT_FD, type StartOptions, type StartReport } from '../vms/lifecycle.ts';
import { runVmProcess, type VmProcess } from './process.ts';
import { Tie } from './tie.ts';

/** The whole of a VM's process: tells whoever has started it how that went, and lives on. @returns its exit status */
export async function vmProcess(folder: string, options: StartOptions = {}): Promise<number> {
  const tie = options.tied === true ? new Tie() : undefined;
  let told = false;
  const report = (line: StartReport): void => {
    if (told) return;
    told = true;
    try {
      writeSync(REPORT_FD, JSON.stringify(line));
      closeSync(REPORT_FD);
    } catch {
      // Whoever has started it did not stay to hear.
    }
  };
  try {
    const ready = (vm: VmProcess): void => {
      vm.obeySignals();
      report({ ready: true });
    };
    await runVmProcess(folder, options, ready, tie);
    return 0;
  } catch (error) {
    report({ error: errorDetails(error) });
    return 1;
  }
}
