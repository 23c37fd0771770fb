/** What a driver does with a transport's registers, the same for each transport. */
export type TransportDriver = {
  readonly kind: 'mmio' | 'pci' | 'pci-intx';
  status: number;
  /** feature words offered, and accepted */
  deviceFeatures(select: number): number;
  acceptFeatures(select: number, word: number): void;
  selectQueue(index: number): void;
  /** largest size of the selected queue before it is set; 0 where there is none */
  queueSizeLimit(): number;
  setQueueSize(size: number): void;
  setQueueAddress(part: 'descriptors' | 'driver' | 'device', address: number | bigint): void;
  /** size and addresses of the selected queue where they can be read */
  queueRegisters(): number[];
  enableQueue(): void;
  queueEnabled(): boolean;
  notify(queue: number): void;
  /** Takes the interrupts there are, and acknowledges them. */
  interrupts(): { queues: boolean; config: boolean };
  readConfig(offset: number, size: 1 | 2 | 4): number;
  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void;
  generation(): number;
  /** selectors and interrupt bits, where they can be read: all 0 after a reset */
  leftovers(): number[];
  /** Writes where and as wide as no driver may; nothing of it counts. */
  misuse(): void;
};
