import type { PciFunction } from '../../virtio/pci-function.ts';

/** Red Hat's generic PCI Express host bridge, which kernels know and have no driver or workaround for. */
const IDENTITY = {
  vendor: 0x1b36,
  device: 0x0008,
  revision: 0,
  classCode: 0x060000,
  subsystemVendor: 0x1af4,
  subsystem: 0x1100,
} as const;

/** The host bridge as it shows itself at 00:00.0: an identity and nothing else. */
export function hostBridge(): PciFunction {
  return {
    name: 'pci host bridge',
    identity: IDENTITY,
    bars: [],
    capabilities: [],
    interruptPin: false,
    attach: () => undefined,
    reset: () => Promise.resolve(),
    pause: () => Promise.resolve(),
    resume: () => undefined,
    save: () => null,
    restore: () => undefined,
  };
}
