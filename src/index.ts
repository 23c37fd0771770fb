/** tsvm as a library. */

// Running a VM
export { startVm, VmOptionError } from './vmm/vm.ts';
export type { AccessCount, RunningVm, SerialPort, VmExit, VmExitReason, VmOptions } from './vmm/types.ts';

// What this machine can do
export { probeGuests, type ProbeCheck, type ProbeResult } from './vmm/probe.ts';

// Errors
export { BootError, type KernelFormat } from './boot/types.ts';
export { KvmCapabilityError, KvmError } from './kvm/errors.ts';
