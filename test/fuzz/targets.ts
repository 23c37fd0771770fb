import type { FuzzTarget } from './engine.ts';

/** Loaded when asked for: each brings what it tests. */
const TARGETS: Readonly<Record<string, () => Promise<FuzzTarget>>> = {
  queue: async () => (await import('./targets/queue.ts')).queueTarget,
  rng: async () => (await import('./targets/rng.ts')).rngTarget,
  balloon: async () => (await import('./targets/balloon.ts')).balloonTarget,
  block: async () => (await import('./targets/block.ts')).blockTarget,
  console: async () => (await import('./targets/console.ts')).consoleTarget,
  net: async () => (await import('./targets/net.ts')).netTarget,
  boot: async () => (await import('./targets/boot.ts')).bootTarget,
  vsock: async () => (await import('./targets/vsock.ts')).vsockTarget,
  fs: async () => (await import('./targets/fs.ts')).fsTarget,
  qcow2: async () => (await import('./targets/qcow2.ts')).qcow2Target,
  guestfs: async () => (await import('./targets/guestfs.ts')).guestfsTarget,
  vmnet: async () => (await import('./targets/vmnet.ts')).vmnetTarget,
  snapshot: async () => (await import('./targets/snapshot.ts')).snapshotTarget,
  manager: async () => (await import('./targets/manager.ts')).managerTarget,
};

export const availableTargets = Object.keys(TARGETS);

/** @throws RangeError where there is none of this name */
export async function loadTarget(name: string): Promise<FuzzTarget> {
  const load = TARGETS[name];
  if (load === undefined) throw new RangeError(`no target ${name}; there are ${availableTargets.join(', ')}`);
  return load();
}
