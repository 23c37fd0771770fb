import type { AccessSize, BusSpace } from '../../../src/kvm/bus.ts';
import { GuestMemory, type PageReclaim } from '../../../src/kvm/guest-memory.ts';
import type { MessageSink, MessageSource, Notifier, NotifyAddress } from '../../../src/kvm/notify.ts';
import type { PageRanges } from '../../../src/kvm/page-ranges.ts';
import type { MsiMessage } from '../../../src/kvm/routing.ts';
import { FakeBus } from '../fake-bus.ts';

type Attachment = { readonly at: NotifyAddress; readonly notified: () => void; signalled: boolean };

/** ioeventfds without KVM: a matching write never reaches the bus, and is told of when the event loop turns. */
export class FakeNotifier implements Notifier {
  readonly attached = new Set<Attachment>();

  attach(at: NotifyAddress, notified: () => void): { detach(): void } {
    const attachment = { at, notified, signalled: false };
    this.attached.add(attachment);
    return { detach: () => void this.attached.delete(attachment) };
  }

  /** Whether one took the write. */
  take(space: BusSpace, address: number, size: number, value: number): boolean {
    for (const attachment of this.attached) {
      const { at } = attachment;
      if (at.space !== space || at.address !== address) continue;
      if (at.size !== 0 && at.size !== size) continue;
      if (at.datamatch !== undefined && at.datamatch !== value) continue;
      attachment.signalled = true;
      return true;
    }
    return false;
  }

  deliver(): boolean {
    const due = [...this.attached].filter(({ signalled }) => signalled);
    for (const attachment of due) {
      attachment.signalled = false;
      if (this.attached.has(attachment)) attachment.notified();
    }
    return due.length > 0;
  }
}

/** MSI messages as they would reach a vCPU. */
export class FakeMessages implements MessageSource {
  /** messages sent and not looked at yet */
  sent: MsiMessage[] = [];
  /** sinks that hold a route */
  held = 0;

  allocate(): MessageSink {
    let message: MsiMessage | undefined;
    return {
      configure: (to) => {
        if (message === undefined) this.held++;
        message = to;
      },
      trigger: () => {
        if (message === undefined) throw new Error('a message that goes nowhere');
        this.sent.push(message);
      },
      release: () => {
        if (message !== undefined) this.held--;
        message = undefined;
      },
    };
  }
}

/** Takes pages back as a host does, which has zeros in their place at the next touch. */
export class FakeReclaim implements PageReclaim {
  refusal: string | undefined;
  leaves: 'zeros' | 'file' = 'zeros';
  /** thrown instead */
  error: Error | undefined;
  /** the ranges of each call */
  readonly calls: (readonly [address: number, length: number])[][] = [];
  readonly #memory: () => GuestMemory;

  constructor(memory: () => GuestMemory) {
    this.#memory = memory;
  }

  discard(ranges: PageRanges): number {
    if (this.error !== undefined) throw this.error;
    if (this.refusal !== undefined) return 0;
    const call = Array.from(
      { length: ranges.count },
      (_, i) => [ranges.address(i), ranges.length(i)] as const,
    );
    this.calls.push(call);
    for (const [address, length] of call) this.#memory().fill(address, length);
    return ranges.byteLength;
  }
}

/** How guest RAM lies in ArrayBuffers: in one, or in one a page, so that whatever crosses a page crosses windows. */
export type MemoryShape = 'one window' | 'a window a page';

export const PAGE = 0x1000;
/** RAM of the fake machine: this much from 0 on, a hole, and some more. */
export const LOW_RAM = 0x80000;
export const HIGH_RAM = { base: 0xa0000, size: 0x4000 } as const;

/** What a device and its transport are plugged into, and what runs its event loop. */
export class FakeMachine {
  readonly bus = new FakeBus();
  readonly notifier = new FakeNotifier();
  readonly messages = new FakeMessages();
  readonly memory: GuestMemory;
  /** of memory that the machine has made itself */
  readonly reclaim = new FakeReclaim(() => this.memory);
  /** lines that transports have reported */
  readonly reports: string[] = [];
  #deferred: (() => void)[] = [];

  /** @param shape memory of its own in this shape, or a VM's, which has RAM from 0 to LOW_RAM at least */
  constructor(shape: MemoryShape | GuestMemory) {
    if (shape instanceof GuestMemory) {
      this.memory = shape;
      return;
    }
    const ranges = [{ base: 0, size: LOW_RAM }, HIGH_RAM];
    const windows = ranges.flatMap(({ base, size }) => {
      const step = shape === 'one window' ? size : PAGE;
      return Array.from({ length: size / step }, (_, i) => ({
        base: base + i * step,
        bytes: new Uint8Array(step),
      }));
    });
    this.memory = new GuestMemory(windows, this.reclaim);
  }

  readonly defer = (callback: () => void): void => void this.#deferred.push(callback);
  readonly report = (line: string): void => void this.reports.push(line);

  /** A read of a vCPU. */
  read(space: BusSpace, address: number, size: AccessSize): number {
    return this.bus.read(space, address, size);
  }

  /** A write of a vCPU. */
  write(space: BusSpace, address: number, size: AccessSize, value: number): void {
    if (!this.notifier.take(space, address, size, value)) this.bus.write(space, address, size, value);
  }

  /** Turns the event loop until nothing is left to do at once. */
  settle(): void {
    for (let turn = 0; turn < 10_000; turn++) {
      this.bus.drain();
      const notified = this.notifier.deliver();
      const deferred = this.#deferred;
      this.#deferred = [];
      for (const callback of deferred) callback();
      if (!notified && deferred.length === 0) return;
    }
    throw new Error('the device never comes to rest');
  }

  /** Turns the real event loop as well, until `condition` holds. @throws where it does not within 5 seconds */
  async until(condition: () => boolean): Promise<void> {
    const end = performance.now() + 5000;
    for (;;) {
      this.settle();
      if (condition()) return;
      if (performance.now() > end) throw new Error('what was waited for did not happen');
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Lets `ms` pass. */
  async pass(ms: number): Promise<void> {
    const end = performance.now() + ms;
    while (performance.now() < end) {
      this.settle();
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    this.settle();
  }

  /** Guest RAM, all of it, to compare with later. */
  snapshot(): Uint8Array[] {
    return this.memory.ranges.map(({ base, size }) => this.memory.read(base, size));
  }
}

export function sameBytes(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((bytes, i) => Buffer.compare(bytes, b[i]!) === 0);
}
