import type { PortOptions, VmOptions } from '../../vmm/types.ts';
import type { BootFiles } from './boot-files.ts';
import { execPorts } from './exec-slots.ts';
import type { VmSettings } from '../vms/settings.ts';

/** What a VM's process adds to its settings. */
export type ProcessOptions = {
  /** for the guest agent */
  readonly port: PortOptions;
  readonly log: (line: string) => void;
};

/** Options of a VM by its settings; paths stay relative to its folder. */
export function vmOptionsOf(
  { vm, disks }: VmSettings,
  boot: BootFiles,
  { port, log }: ProcessOptions,
): VmOptions {
  return {
    kernel: boot.kernel,
    initrds: boot.initrds,
    ...(boot.cmdline !== undefined && { cmdline: boot.cmdline }),
    memory: vm.memory,
    cpus: vm.cpus,
    ...(vm.cpu !== undefined && { cpu: vm.cpu }),
    console: vm.console,
    transport: vm.transport,
    rng: true,
    ...(vm.balloon && { balloon: {} }),
    ports: [port, ...execPorts],
    disks: disks.map(({ file, format, readOnly, cache, trustBacking, serial }) => ({
      path: file,
      format,
      readOnly,
      cache,
      ...(trustBacking && { backing: { trusted: true } }),
      ...(serial !== undefined && { serial }),
    })),
    log,
  };
}
