import { constants as os } from 'node:os';

const NAMES = new Map(Object.entries(os.errno).map(([name, number]) => [number, name]));

/** What to do about the usual failures. */
function hintFor(code: string, syscall: string, request: string): string | undefined {
  if (request === '/dev/kvm') {
    switch (code) {
      case 'ENOENT':
        return 'load the module (`sudo modprobe kvm_intel` or `kvm_amd`), enable virtualisation in the firmware, or pass the device into the container (`--device /dev/kvm`); `tsvm doctor` tells more';
      case 'EACCES':
      case 'EPERM':
        return 'join the group that owns the device: `sudo usermod -aG kvm "$USER"`, then log in again; `tsvm doctor` tells more';
      case 'EBUSY':
        return 'another hypervisor (VirtualBox, VMware) holds the CPU virtualisation: stop its machines first';
    }
  }
  if (code === 'EBUSY' && request === 'KVM_CREATE_VM') {
    return 'another hypervisor (VirtualBox, VMware) holds the CPU virtualisation: stop its machines first';
  }
  if (code === 'ENOMEM') {
    return syscall === 'mmap'
      ? 'give the VM less memory, or free some (huge pages come from a pool of their own)'
      : 'free some memory on the host';
  }
  if (code === 'EINVAL' && syscall === 'madvise') {
    return 'locked memory (mlockall, `ulimit -l`) stays with the process';
  }
  if (code === 'ENOTTY' && request === 'KVM_GET_API_VERSION') {
    return 'what was opened is not KVM: its device is /dev/kvm';
  }
  if (code === 'EMFILE') return 'raise the limit of open files (`ulimit -n`)';
  return undefined;
}

/** A system call that failed, with all that is needed to tell why. */
export class KvmError extends Error {
  override readonly name = 'KvmError';
  /** the error's name, e.g. `EACCES` */
  readonly code: string;
  readonly errno: number;
  /** the system call, e.g. `ioctl` */
  readonly syscall: string;
  /** what it was asked for: a KVM request (`KVM_CREATE_VM`) or a path */
  readonly request: string;
  /** the way out, where there is a usual one */
  readonly hint?: string;

  constructor(errno: number, syscall: string, request: string) {
    const code = NAMES.get(errno) ?? `E${errno}`;
    super(
      code === 'EBADF' && syscall === 'closed' ? `${request} is closed` : `${syscall} ${request}: ${code}`,
    );
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
    this.request = request;
    const hint = hintFor(code, syscall, request);
    if (hint !== undefined) this.hint = hint;
  }
}

/** KVM lacks something that tsvm cannot do without. */
export class KvmCapabilityError extends Error {
  override readonly name = 'KvmCapabilityError';
  readonly code = 'ENOSYS';
  readonly missing: readonly string[];
  readonly hint = 'tsvm needs Linux 5.10 or newer with a complete KVM; `tsvm doctor` lists what is there';

  constructor(missing: readonly string[]) {
    super(`KVM on this host lacks ${missing.join(', ')}`);
    this.missing = missing;
  }
}
