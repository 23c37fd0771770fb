/** Configuration space header, type 0 (PCI Local Bus Specification 3.0, 6.1), offsets in bytes. */
export const CONFIG = {
  vendor: 0x00,
  device: 0x02,
  command: 0x04,
  status: 0x06,
  revision: 0x08,
  classCode: 0x09,
  cacheLineSize: 0x0c,
  headerType: 0x0e,
  bars: 0x10,
  subsystemVendor: 0x2c,
  subsystem: 0x2e,
  capabilities: 0x34,
  interruptLine: 0x3c,
  interruptPin: 0x3d,
  /** first byte after the header */
  end: 0x40,
} as const;

/** Conventional configuration space; what ECAM shows above is the extended space, empty here. */
export const CONFIG_SIZE = 0x100;
/** one function in ECAM (PCI Express Base Specification 4.0, 7.2.2) */
export const ECAM_FUNCTION_SIZE = 0x1000;

/** Command register (6.2.2) */
export const COMMAND = {
  memorySpace: 0x002,
  busMaster: 0x004,
  parityError: 0x040,
  systemError: 0x100,
  interruptDisable: 0x400,
} as const;

/** Status register (6.2.3) */
export const PCI_STATUS = { interrupt: 0x08, capabilities: 0x10 } as const;

/** Low bits of a memory BAR (6.2.5.1) */
export const BAR_TYPE = { memory64: 0x4, prefetchable: 0x8 } as const;

/** MSI-X (6.8.2) */
export const MSIX = {
  capability: 0x11,
  /** Message Control */
  enable: 0x8000,
  functionMask: 0x4000,
  entrySize: 16,
  /** in an entry's Vector Control */
  masked: 1,
} as const;
