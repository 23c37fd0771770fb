import { API_VERSION, CAP, REQUIRED_CAPABILITIES, type CapabilityName } from './constants.ts';
import { decodeCpuid, type CpuidEntry } from './cpuid-entry.ts';
import { KvmCapabilityError } from './errors.ts';
import { native, type NativeKvm } from './native.ts';

export { REQUIRED_CAPABILITIES } from './constants.ts';

/** /dev/kvm, opened. */
export class Kvm {
  readonly native: NativeKvm;

  /** @throws KvmError */
  constructor(path = '/dev/kvm') {
    this.native = new (native().Kvm)(path);
  }

  apiVersion(): number {
    return this.native.apiVersion();
  }

  /** 0 where it is missing, else 1 or the capability's number (limits, sizes). */
  capability(name: CapabilityName): number {
    return this.native.checkExtension(CAP[name]);
  }

  missingCapabilities(): CapabilityName[] {
    return REQUIRED_CAPABILITIES.map(({ name }) => name).filter((name) => this.capability(name) <= 0);
  }

  /** What CPUID leaves KVM can give a guest on this host. */
  supportedCpuid(): CpuidEntry[] {
    return decodeCpuid(this.native.supportedCpuid());
  }

  /** Numbers of the MSRs that KVM saves and restores. */
  msrIndices(): Uint32Array {
    return this.native.msrIndices();
  }

  close(): void {
    this.native.close();
  }
}

/**
 * Opens KVM and makes sure that it can do what tsvm needs.
 * @throws KvmError where it does not open, KvmCapabilityError naming all that is missing
 */
export function openKvm(path = '/dev/kvm'): Kvm {
  const kvm = new Kvm(path);
  try {
    const version = kvm.apiVersion();
    const missing =
      version === API_VERSION
        ? kvm.missingCapabilities()
        : [`API version ${API_VERSION} (it has ${version})`];
    if (missing.length > 0) throw new KvmCapabilityError(missing);
  } catch (error) {
    kvm.close();
    throw error;
  }
  return kvm;
}
