/** tsvm as a library. */

// VMs that are kept, as the command line has them
export {
  Vm,
  type CreateVmOptions,
  type RunVmOptions,
  type VmBase,
  type VmHomeOptions,
} from './manager/vms/vm.ts';
export {
  VmExecError,
  type VmExec,
  type VmExecChunk,
  type VmExecOptions,
  type VmExecResult,
} from './manager/vms/exec.ts';
export type { EventFilter, VmEvent, VmEventKind } from './manager/events.ts';
export { CopyError } from './manager/copy/errors.ts';
export type { CopyOptions, CopyProgress, CopyResult } from './manager/copy/copy.ts';
export { SnapshotError } from './manager/snapshots/errors.ts';
export type { CreateSnapshotOptions, TakenSnapshot } from './manager/snapshots/create.ts';
export type { RestoreOptions } from './manager/snapshots/restore.ts';
export type { SnapshotInfo } from './manager/snapshots/store.ts';
export type { ScreenColor, ScreenRun, ScreenSize, ScreenStyle, VmScreen } from './manager/vms/screen.ts';
export type { VmSerial } from './manager/vms/serial.ts';
export type { VmChange } from './manager/vms/change.ts';
export type { StopOptions } from './manager/vms/lifecycle.ts';
export type { DiskSettings, VmSettings } from './manager/vms/settings.ts';
export { VmStoreError, type VmStatus } from './manager/vms/store.ts';
export { WaitError, type WaitOptions, type WaitTarget } from './manager/vms/wait.ts';
export { ControlError } from './manager/control/errors.ts';

// Running a VM in this process
export { startVm, VmOptionError } from './vmm/vm.ts';
export type {
  AccessCount,
  DiskOptions,
  RunningVm,
  GuestPort,
  SerialPort,
  Share,
  ShareOptions,
  VmExit,
  VmExitReason,
  VmOptions,
  VsockOptions,
} from './vmm/types.ts';

// Networks
export type {
  CardOptions,
  NetworkCard,
  NetworkOptions,
  QueueTraffic,
  StreamNetworkOptions,
  TapNetworkOptions,
} from './vmm/network-types.ts';
export { NetworkError } from './net/network-error.ts';

// Shared folders
export { mountShares, withAgentPort, type MountOptions } from './manager/shares/mount.ts';
export { ShareError, type FsCache } from './devices/fs/folder.ts';

// Disk images
export {
  checkDisk,
  commitOverlay,
  convertDisk,
  createDisk,
  createOverlay,
  diskInfo,
  diskMap,
  rebaseOverlay,
  resizeDisk,
  type NewDisk,
  type SourceImage,
} from './storage/tools.ts';
export type { ConvertTarget } from './storage/convert.ts';
export type { DiskCache } from './storage/disk.ts';
export type { Preallocation } from './storage/fill-space.ts';
export type { DiskFormat } from './storage/open.ts';
export type { ChainPolicy } from './storage/qcow2/chain.ts';
export type { CheckOptions, CheckResult } from './storage/qcow2/check.ts';
export type { CreateOptions } from './storage/qcow2/create.ts';
export type { OverlayOptions } from './storage/qcow2/create-overlay.ts';
export type { ImageInfo, Qcow2Info } from './storage/qcow2/info.ts';
export type { DiskExtent } from './storage/qcow2/map.ts';
export type { NewBacking, RebaseOptions } from './storage/rebase.ts';

// What this machine can do
export { probeGuests, type ProbeCheck, type ProbeResult } from './vmm/probe.ts';

// Errors
export { StorageError } from './storage/disk.ts';
export { BootError, type KernelFormat } from './boot/types.ts';
export { KvmCapabilityError, KvmError } from './kvm/errors.ts';
