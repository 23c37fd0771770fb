/** Numbers of the KVM API (linux/kvm.h, Documentation/virt/kvm/api.rst). */

export const API_VERSION = 12;

/** Capabilities by name. */
export const CAP = {
  KVM_CAP_IRQCHIP: 0,
  KVM_CAP_USER_MEMORY: 3,
  KVM_CAP_SET_TSS_ADDR: 4,
  KVM_CAP_EXT_CPUID: 7,
  KVM_CAP_NR_VCPUS: 9,
  KVM_CAP_NR_MEMSLOTS: 10,
  KVM_CAP_MP_STATE: 14,
  KVM_CAP_DESTROY_MEMORY_REGION_WORKS: 21,
  KVM_CAP_IRQ_ROUTING: 25,
  KVM_CAP_IRQFD: 32,
  KVM_CAP_PIT2: 33,
  KVM_CAP_PIT_STATE2: 35,
  KVM_CAP_IOEVENTFD: 36,
  KVM_CAP_SET_IDENTITY_MAP_ADDR: 37,
  KVM_CAP_ADJUST_CLOCK: 39,
  KVM_CAP_VCPU_EVENTS: 41,
  KVM_CAP_DEBUGREGS: 50,
  KVM_CAP_XSAVE: 55,
  KVM_CAP_XCRS: 56,
  KVM_CAP_TSC_CONTROL: 60,
  KVM_CAP_GET_TSC_KHZ: 61,
  KVM_CAP_MAX_VCPUS: 66,
  KVM_CAP_TSC_DEADLINE_TIMER: 72,
  KVM_CAP_KVMCLOCK_CTRL: 76,
  KVM_CAP_SIGNAL_MSI: 77,
  KVM_CAP_READONLY_MEM: 81,
  KVM_CAP_IRQFD_RESAMPLE: 82,
  KVM_CAP_IMMEDIATE_EXIT: 136,
  KVM_CAP_XSAVE2: 208,
} as const;

export type CapabilityName = keyof typeof CAP;

/** What tsvm cannot do without, and why, as `tsvm doctor` shows it. */
export const REQUIRED_CAPABILITIES: readonly { readonly name: CapabilityName; readonly purpose: string }[] = [
  { name: 'KVM_CAP_USER_MEMORY', purpose: 'guest memory' },
  { name: 'KVM_CAP_DESTROY_MEMORY_REGION_WORKS', purpose: 'guest memory that can be unmapped' },
  { name: 'KVM_CAP_READONLY_MEM', purpose: 'guest memory that the guest cannot write' },
  { name: 'KVM_CAP_SET_TSS_ADDR', purpose: 'real-mode start of the processors' },
  { name: 'KVM_CAP_SET_IDENTITY_MAP_ADDR', purpose: 'real-mode start of the processors' },
  { name: 'KVM_CAP_EXT_CPUID', purpose: 'processor features' },
  { name: 'KVM_CAP_IRQCHIP', purpose: 'interrupt controllers in the kernel' },
  { name: 'KVM_CAP_IRQ_ROUTING', purpose: 'interrupt routes, MSI among them' },
  { name: 'KVM_CAP_IRQFD', purpose: 'interrupts from eventfds' },
  { name: 'KVM_CAP_IRQFD_RESAMPLE', purpose: 'level-triggered interrupts from eventfds' },
  { name: 'KVM_CAP_IOEVENTFD', purpose: 'queue notifications without an exit' },
  { name: 'KVM_CAP_SIGNAL_MSI', purpose: 'message-signalled interrupts' },
  { name: 'KVM_CAP_PIT2', purpose: 'the PC timer' },
  { name: 'KVM_CAP_PIT_STATE2', purpose: 'snapshots of the PC timer' },
  { name: 'KVM_CAP_ADJUST_CLOCK', purpose: 'the guest clock' },
  { name: 'KVM_CAP_KVMCLOCK_CTRL', purpose: 'pausing without soft-lockup reports' },
  { name: 'KVM_CAP_MP_STATE', purpose: 'several processors' },
  { name: 'KVM_CAP_VCPU_EVENTS', purpose: 'snapshots of the processors' },
  { name: 'KVM_CAP_DEBUGREGS', purpose: 'snapshots of the processors' },
  { name: 'KVM_CAP_XSAVE', purpose: 'snapshots of the processors' },
  { name: 'KVM_CAP_XCRS', purpose: 'snapshots of the processors' },
  { name: 'KVM_CAP_IMMEDIATE_EXIT', purpose: 'pausing at a clean point' },
];

/** KVM_EXIT_* by name (those this host side can meet). */
export const EXIT = {
  unknown: 0,
  exception: 1,
  io: 2,
  hypercall: 3,
  debug: 4,
  hlt: 5,
  mmio: 6,
  irqWindowOpen: 7,
  shutdown: 8,
  failEntry: 9,
  intr: 10,
  setTpr: 11,
  tprAccess: 12,
  nmi: 16,
  internalError: 17,
  systemEvent: 24,
  ioapicEoi: 26,
  hyperv: 27,
  x86Rdmsr: 29,
  x86Wrmsr: 30,
  dirtyRingFull: 31,
  apResetHold: 32,
  x86BusLock: 33,
  notify: 37,
  /** KVM_RUN itself failed; `errno` says how */
  runFailed: 0xffff_ffff,
} as const;

const EXIT_NAMES = new Map<number, string>(Object.entries(EXIT).map(([name, number]) => [number, name]));

export function exitName(reason: number): string {
  return EXIT_NAMES.get(reason) ?? `exit ${reason}`;
}

/** Suberrors of KVM_EXIT_INTERNAL_ERROR. */
export const INTERNAL_ERROR = new Map<number, string>([
  [1, 'KVM could not emulate an instruction'],
  [2, 'the guest caused exceptions while KVM delivered one'],
  [3, 'the CPU exited while KVM delivered an event'],
  [4, 'the CPU exited for a reason that KVM does not know'],
]);

/** KVM_MP_STATE_* */
export const MP_STATE = {
  runnable: 0,
  uninitialized: 1,
  initReceived: 2,
  halted: 3,
  sipiReceived: 4,
} as const;
