import { native, type NativeEventFd, type NativeTimer } from './native.ts';

/**
 * An eventfd: the kernel signals it (ioeventfd) or takes it (irqfd), JavaScript does either. Assign `onEvent` and
 * call `watch()` to be told; a watched one keeps neither itself nor the process alive.
 */
export type EventFd = NativeEventFd;

/** @throws KvmError */
export function createEventFd(): EventFd {
  return new (native().EventFd)();
}

/** A monotonic timer with nanoseconds. As {@link EventFd}, `onEvent(expirations)` is called while it is watched. */
export type Timer = NativeTimer;

/** @throws KvmError */
export function createTimer(): Timer {
  return new (native().Timer)();
}
