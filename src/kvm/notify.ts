/**
 * How a device hears from the guest, and the guest from a device, without a vCPU that waits: ioeventfds and irqfds.
 * Devices know the types alone.
 */
import type { BusSpace } from './bus.ts';
import { createEventFd, type EventFd } from './events.ts';
import type { MsiMessage } from './routing.ts';
import type { KvmVm } from './vm.ts';

/** A write of the guest that is an event and nothing else. */
export type NotifyAddress = {
  readonly space: BusSpace;
  readonly address: number;
  /** width of the access in bytes; 0 for any */
  readonly size: 0 | 1 | 2 | 4;
  /** only writes of this value; not with size 0 */
  readonly datamatch?: number;
};

export type Notifier = {
  /** Calls `notified` on the event loop after writes to the address, once for many; returns what ends that. */
  attach(address: NotifyAddress, notified: () => void): { detach(): void };
};

/** An interrupt that is an edge: a message. */
export type MessageSink = {
  /** Sets where it goes, before the first trigger and at any time later. */
  configure(message: MsiMessage): void;
  trigger(): void;
  /** Frees what it holds. */
  release(): void;
};

export type MessageSource = {
  /** A new sink, which holds nothing before it is configured. */
  allocate(): MessageSink;
};

/** Notifications by ioeventfd. */
export class KvmNotifier implements Notifier {
  readonly #vm: KvmVm;

  constructor(vm: KvmVm) {
    this.#vm = vm;
  }

  /** @throws KvmError */
  attach(address: NotifyAddress, notified: () => void): { detach(): void } {
    const vm = this.#vm;
    const event = createEventFd();
    const request = { ...address, fd: event.fd };
    try {
      vm.native.ioeventfd(request);
      event.onEvent = notified;
      event.watch();
      vm.attached.add(event);
    } catch (error) {
      event.close();
      throw error;
    }
    return {
      detach: () => {
        if (!vm.closed) vm.native.ioeventfd({ ...request, remove: true });
        vm.attached.delete(event);
        event.close();
      },
    };
  }
}

/** Messages by irqfd, each with a GSI route of its own. */
export class KvmMessages implements MessageSource {
  readonly #vm: KvmVm;

  constructor(vm: KvmVm) {
    this.#vm = vm;
  }

  allocate(): MessageSink {
    const vm = this.#vm;
    let route: { readonly gsi: number; readonly event: EventFd } | undefined;
    return {
      configure: (message) => {
        if (vm.closed) return;
        if (route !== undefined) {
          vm.routing.update(route.gsi, message);
          return;
        }
        const event = createEventFd();
        const gsi = vm.routing.allocate(message);
        vm.native.irqfd({ fd: event.fd, gsi });
        route = { gsi, event };
      },
      trigger: () => {
        if (!vm.closed) route?.event.signal();
      },
      release: () => {
        if (route === undefined) return;
        const { gsi, event } = route;
        route = undefined;
        if (!vm.closed) {
          vm.native.irqfd({ fd: event.fd, gsi, remove: true });
          vm.routing.free(gsi);
        }
        event.close();
      },
    };
  }
}
