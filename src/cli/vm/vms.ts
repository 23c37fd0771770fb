import { Option } from 'commander';
import { EventJournal } from '../../manager/events.ts';
import { managerPaths, privateFolder } from '../../manager/paths.ts';
import { VmStore } from '../../manager/vms/store.ts';

/** The user's VMs. */
export function openStore(): VmStore {
  const paths = managerPaths();
  privateFolder(paths.root);
  return new VmStore(paths.vms, new EventJournal(paths.root));
}

/** For verbs that start a VM, or make one. */
export function jailOption(of = ''): Option {
  return new Option(
    '--jail <state>',
    `${of}off: the VM's process keeps all rights of your user, for debugging (default: on)`,
  ).choices(['on', 'off']);
}

/** An argument of all verbs that are about one VM. */
export const NAME_HELP = 'name of the VM';
export const SNAPSHOT_HELP = 'name of the snapshot';
