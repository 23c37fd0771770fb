import type { VirtioDevice } from '../virtio/device.ts';
import type { BalloonControl, SerialPort, VmOptions } from './types.ts';

export type PeripheralOptions = Pick<VmOptions, 'disks' | 'console' | 'ports' | 'rng' | 'balloon' | 'log'>;

/** The host's end of a VM's devices: files, sockets and consoles. It outlives the devices of one boot. */
export class Peripherals {
  static open(_options: PeripheralOptions): Promise<Peripherals> {
    return Promise.resolve(new Peripherals());
  }

  readonly console: SerialPort | undefined;
  readonly balloon: BalloonControl | undefined;

  /** New devices for a new board, in the order in which the guest finds them. */
  devices(): VirtioDevice[] {
    return [];
  }

  resizeConsole(_columns: number, _rows: number): void {}

  resizeDisk(_index: number, _size: number): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
