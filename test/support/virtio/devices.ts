import { noConfig, DeviceConfig, type ConfigRegisters } from '../../../src/virtio/device-config.ts';
import type { Activation, VirtioDevice } from '../../../src/virtio/device.ts';
import { Features } from '../../../src/virtio/features.ts';
import type { Chain } from '../../../src/virtio/chain.ts';
import { checkState, unsigned } from '../../../src/kvm/device-state.ts';
import * as v from 'valibot';

const state = v.strictObject({ served: unsigned(2 ** 32) });

/** Answers each request with the bytes it brings, at once or some time later and in reverse order. */
export class EchoDevice implements VirtioDevice {
  readonly name: string = 'echo0';
  readonly deviceId: number = 42;
  readonly features: Features = Features.of(0, 5);
  readonly queueSizes: readonly number[];
  readonly config: ConfigRegisters = noConfig();
  activation: Activation | undefined;
  served = 0;
  /** calls of `notified` */
  notifications = 0;
  readonly #delay: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** requests that wait for the timer */
  #held: { readonly queue: number; readonly head: number }[] = [];

  /** @param delay milliseconds until answers, default none */
  constructor(options: { delay?: number; queueSizes?: readonly number[] } = {}) {
    this.#delay = options.delay;
    this.queueSizes = options.queueSizes ?? [64, 256];
  }

  activate(activation: Activation): void {
    this.activation = activation;
  }

  notified(index: number): void {
    this.notifications++;
    const queue = this.activation!.queues[index]!;
    if (this.#delay === undefined) {
      queue.drain((chain) => queue.push(chain.head, this.#answer(chain)));
      return;
    }
    queue.drain((chain) => this.#held.push({ queue: index, head: chain.head }));
    this.#timer ??= setTimeout(() => this.#release(), this.#delay);
  }

  /** What is held still comes: I/O in flight cannot be called back. It must not reach the guest. */
  reset(): Promise<void> | undefined {
    this.activation = undefined;
    const { promise, resolve } = withResolvers();
    if (this.#timer === undefined) return undefined;
    this.#onRelease = resolve;
    return promise;
  }

  quiesce(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#held = [];
  }

  async pause(): Promise<void> {
    while (this.#timer !== undefined) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  save(): unknown {
    return { served: this.served };
  }

  restore(data: unknown): void {
    this.served = checkState(this.name, state, data).served;
  }

  #onRelease: (() => void) | undefined;

  #release(): void {
    this.#timer = undefined;
    const held = this.#held.reverse();
    this.#held = [];
    const queues = this.activation?.queues;
    for (const { queue, head } of held) {
      const chain = queues?.[queue]?.chain(head);
      if (chain) queues?.[queue]?.push(head, this.#answer(chain));
    }
    for (const queue of queues ?? []) queue?.flush();
    this.#onRelease?.();
    this.#onRelease = undefined;
  }

  #answer({ readable, writable }: Chain): number {
    this.served++;
    const bytes = new Uint8Array(Math.min(readable.byteLength, 65536));
    readable.read(0, bytes);
    return writable.write(0, bytes);
  }
}

function withResolvers(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve };
}

/** An echo with configuration fields of all kinds. */
export class FieldsDevice extends EchoDevice {
  override readonly name = 'fields0';
  override readonly deviceId = 43;
  override readonly features = Features.of(1, 50);
  readonly written: string[] = [];
  override readonly config = new DeviceConfig<'capacity' | 'mac' | 'mode' | 'actual'>(
    [
      { name: 'capacity', width: 8 },
      { name: 'mac', width: 6 },
      { name: 'mode', width: 2, writable: true },
      { name: 'actual', width: 4, writable: true },
    ],
    (name) => this.written.push(name),
  );

  constructor(options: { delay?: number } = {}) {
    super({ ...options, queueSizes: [8, 1024] });
    this.config.set({ capacity: 0x1234_5678_9abc, mac: Uint8Array.of(2, 0, 0, 1, 2, 3), mode: 7 });
  }
}
