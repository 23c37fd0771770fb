/** Names in a VM's folder. */
export const VM_INI = 'vm.ini';
/** a folder for each snapshot */
export const SNAPSHOTS = 'snapshots';
/** what the VM goes on from when it is started: in the form of a snapshot, without a name */
export const RESUME = 'resume';
/** names of the memory files that a running VM's RAM lies on */
export const BASE = 'base';
/** a disk's contents that are never written to again, beside the disk */
export const layerFile = (id: string): string => `layer-${id}.qcow2`;
/** of a clone: who it is to be; there until its guest knows */
export const CLONE = 'clone.json';
