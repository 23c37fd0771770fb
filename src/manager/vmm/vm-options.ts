import type { NetworkOptions } from '../../vmm/network-types.ts';
import type { PortOptions, VmOptions } from '../../vmm/types.ts';
import type { BootFiles } from './boot-files.ts';
import { parseForward } from '../../net/forward.ts';
import { parseShare } from '../options/device-options.ts';
import { networksOf, parseNet } from '../options/net-options.ts';
import { execPorts } from './exec-slots.ts';
import type { VmSettings } from '../vms/settings.ts';

/** What a VM's process adds to its settings. */
export type ProcessOptions = {
  /** of the VM; its MAC addresses are made of it, unless its settings have another identity */
  readonly name: string;
  /** for the guest agent */
  readonly port: PortOptions;
  readonly log: (line: string) => void;
};

/** @param name of the VM: what networks of VMs call it, unless its settings say another thing */
export function networkOptionsOf(
  { cards, publish, hostAccess }: VmSettings['network'],
  name: string,
): NetworkOptions[] {
  const networks = networksOf(cards.map(parseNet), {
    forwards: publish.map(parseForward),
    ...(hostAccess && { hostAccess: true }),
  });
  const isFirst = (network: string, index: number): boolean =>
    networks.findIndex((other) => other.kind === 'vmnet' && other.network === network) === index;
  return networks.map((each, index) =>
    each.kind === 'vmnet' && each.name === undefined && isFirst(each.network, index)
      ? { ...each, name }
      : each,
  );
}

/** Options of a VM by its settings; paths stay relative to its folder. */
export function vmOptionsOf(
  { vm, disks, network, shares }: VmSettings,
  boot: BootFiles,
  { name, port, log }: ProcessOptions,
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
    identity: vm.identity ?? name,
    networks: networkOptionsOf(network, name),
    ...(shares.length > 0 && { shares: shares.map(parseShare) }),
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
