/** A network of VMs of this user, with a process of its own for its switch. */
import { closeSync } from 'node:fs';
import { join } from 'node:path';
import { Keeper } from '../kvm/keeper.ts';
import { packageRoot } from '../kvm/package-root.ts';
import type { NetBackend } from './backend.ts';
import { StreamBackend } from './stream.ts';
import {
  connectVmnet,
  openLog,
  startSwitch,
  type SwitchCommand,
  type StartedSwitch,
} from './vmnet/connect.ts';
import type { Greeting } from './vmnet/greeting.ts';
import { vmnetPlace, type VmnetPlace } from './vmnet/place.ts';

/** The verb of the command line that serves a network. */
export const SWITCH_VERB = 'vmnet-switch';

export type VmnetOptions = Greeting & {
  /** of the network */
  readonly network: string;
  /** for messages; default `vmnet NETWORK` */
  readonly label?: string;
  /** what the guest is told to be the largest packet, in bytes; default: nothing, which is 1500 */
  readonly mtu?: number;
  readonly log: (line: string) => void;
  /** starts a switch; default: tsvm itself */
  readonly command?: SwitchCommand;
  /** whether a keeper starts the switch, since this process will not be allowed to; default false */
  readonly keeper?: boolean;
  /** for its socket; default: in the user's runtime folder */
  readonly folder?: string;
};

/**
 * Puts a VM on a network; its switch is started where there is none, and again when it has died.
 * @throws NetworkError where the name cannot be, the switch does not come up, or it does not take the VM
 */
export async function openVmnet(options: VmnetOptions): Promise<NetBackend> {
  const { network, label = `vmnet ${network}`, log, mtu, mac, name, uplink } = options;
  const place = vmnetPlace(network, options.folder);
  const command = options.command ?? [
    process.execPath,
    join(packageRoot(), 'dist/tsvm.cjs'),
    SWITCH_VERB,
    network,
  ];
  const greeting: Greeting = { mac, uplink, ...(name !== undefined && { name }) };
  const kept = options.keeper ? keep(place, command) : undefined;
  const start = kept?.start ?? (() => startSwitch(place, command));
  try {
    return await StreamBackend.open({
      name: label,
      log,
      vnetHeader: true,
      connect: () => connectVmnet(place, greeting, start),
      ...(kept && { disconnected: () => Promise.resolve(kept.close()) }),
      ...(mtu !== undefined && { mtu }),
    });
  } catch (error) {
    kept?.close();
    throw error;
  }
}

/** What starts the switch of a network from now on, whatever this process may open and run by then. */
function keep(
  place: VmnetPlace,
  command: SwitchCommand,
): { readonly start: () => StartedSwitch; readonly close: () => void } {
  const log = openLog(place);
  let keeper: Keeper;
  try {
    keeper = new Keeper([...command], process.env);
  } catch (error) {
    closeSync(log);
    throw error;
  }
  return {
    start: () => {
      let ended = false;
      void keeper.run(log).then(() => (ended = true));
      return { ended: () => ended };
    },
    close: () => {
      keeper.close();
      closeSync(log);
    },
  };
}
