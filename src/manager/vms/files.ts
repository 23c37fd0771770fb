/** Names in a VM's folder. */
export const VM_INI = 'vm.ini';
