/** Fields of the common configuration structure (VIRTIO 1.2, 4.1.4.3). */
export const COMMON = {
  deviceFeatureSelect: 0,
  deviceFeature: 4,
  driverFeatureSelect: 8,
  driverFeature: 12,
  configMsixVector: 16,
  numQueues: 18,
  deviceStatus: 20,
  configGeneration: 21,
  queueSelect: 22,
  queueSize: 24,
  queueMsixVector: 26,
  queueEnable: 28,
  queueNotifyOff: 30,
  queueDesc: 32,
  queueDriver: 40,
  queueDevice: 48,
} as const;

/** All of the structure; queue_notify_data and queue_reset at its end belong to features that are not offered. */
export const COMMON_SIZE = 64;

/** "no interrupt vector" (4.1.5.1.2) */
export const NO_VECTOR = 0xffff;

/** Bytes between the notification registers of two queues. */
export const NOTIFY_MULTIPLIER = 4;

/** The one BAR, 64 bits wide, that holds all structures. */
export const BAR = 0;
export const BAR_SIZE = 0x8000;

/** Offsets in the BAR. */
export const BAR_LAYOUT = {
  common: 0x0000,
  isr: 0x1000,
  config: 0x2000,
  configLimit: 0x1000,
  msixTable: 0x3000,
  msixPending: 0x3800,
  notify: 0x4000,
  /** as many as there are MSI-X vectors in the table's 2 KiB, one of them for the configuration */
  queueLimit: 127,
} as const;
