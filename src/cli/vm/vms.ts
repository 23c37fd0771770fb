import { managerPaths, privateFolder } from '../../manager/paths.ts';
import { VmStore } from '../../manager/vms/store.ts';

/** The user's VMs. */
export function openStore(): VmStore {
  const paths = managerPaths();
  privateFolder(paths.root);
  return new VmStore(paths.vms);
}

/** An argument of all verbs that are about one VM. */
export const NAME_HELP = 'name of the VM';
