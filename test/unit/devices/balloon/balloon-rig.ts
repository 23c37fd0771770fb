import { BalloonDevice, type BalloonOptions } from '../../../../src/devices/balloon/device.ts';
import { BALLOON_F } from '../../../../src/devices/balloon/protocol.ts';
import type { DriverQueue } from '../../../support/virtio/driver-queue.ts';
import { HIGH_RAM, LOW_RAM, type FakeMachine } from '../../../support/virtio/machine.ts';
import { Rig } from '../../../support/virtio/rig.ts';

export const RAM = LOW_RAM + HIGH_RAM.size;
/** configuration space (VIRTIO 1.2, 5.5.4) */
export const CONFIG = { target: 0, actual: 4, poison: 12 } as const;
const VERSION_1 = 1;

export type BalloonRig = { readonly rig: Rig; readonly device: BalloonDevice; readonly lines: string[] };

export function newBalloon(options: Partial<BalloonOptions> = {}, machine?: FakeMachine): BalloonRig {
  const lines: string[] = [];
  const device = new BalloonDevice({
    name: 'balloon0',
    memory: RAM,
    log: (line) => lines.push(line),
    ...options,
  });
  return { rig: new Rig(device, { transport: 'pci', memory: 'one window' }, machine), device, lines };
}

/** Initialises the device as a driver does that accepts these features alone and sets up these queues. */
export function drive(
  { rig }: BalloonRig,
  how: {
    readonly without?: readonly number[];
    readonly queues?: readonly number[];
    readonly poison?: number;
  },
): void {
  const { driver } = rig;
  const { without = [], queues = [0, 1, 2, 3, 4], poison } = how;
  driver.status = 0;
  driver.status = 1;
  driver.status = 3;
  const left = without.reduce((bits, bit) => bits & ~(1 << bit), rig.device.features.low);
  driver.acceptFeatures(0, left);
  driver.acceptFeatures(1, VERSION_1);
  driver.status = 0x0b;
  rig.queues = [0, 1, 2, 3, 4].map((index) =>
    queues.includes(index) ? rig.setUpQueue(index, 64) : undefined,
  );
  if (poison !== undefined) driver.writeConfig(CONFIG.poison, 4, poison);
  driver.status = 0x0f;
  rig.machine.settle();
  if (driver.status !== 0x0f) throw new Error('the balloon is not up');
}

export const WITHOUT_POISON = { without: [BALLOON_F.pagePoison] } as const;

/** Gives the pages of these numbers to the balloon; resolves when that is acknowledged. */
export async function inflate({ rig }: BalloonRig, numbers: ArrayLike<number>): Promise<void> {
  rig.buffers.clear();
  await rig.ask(rig.queue(0), [{ bytes: new Uint8Array(Uint32Array.from(numbers).buffer) }]);
}

/** Reports ranges as free on a queue; resolves when that is acknowledged. */
export async function report(
  { rig }: BalloonRig,
  queue: DriverQueue,
  ...ranges: readonly (readonly [address: number, length: number])[]
): Promise<void> {
  queue.chain(ranges.map(([address, length]) => ({ address, length, writable: true })));
  queue.publish();
  rig.driver.notify(queue.index);
  await rig.machine.until(() => queue.hasUsed);
  const [used] = queue.collect();
  if (used?.written !== 0) throw new Error('the balloon says that it has written something');
}

/** A buffer of statistics: a tag of 16 bits and a value of 64, packed. */
export function statisticsOf(
  entries: readonly (readonly [tag: number, value: number | bigint])[],
): Uint8Array {
  const bytes = new Uint8Array(10 * entries.length);
  const view = new DataView(bytes.buffer);
  entries.forEach(([tag, value], i) => {
    view.setUint16(10 * i, tag, true);
    view.setBigUint64(10 * i + 2, BigInt(value), true);
  });
  return bytes;
}
