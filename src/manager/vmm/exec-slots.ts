import type { Duplex } from 'node:stream';
import type { GuestPort, PortOptions, RunningVm } from '../../vmm/types.ts';

/** Commands whose standard streams are connected at a time; each takes three ports. */
const SLOTS = 3;
const STREAMS = ['in', 'out', 'err'] as const;
type StreamName = (typeof STREAMS)[number];

const portName = (slot: number, stream: StreamName): string => `tsvm.exec.${slot}.${stream}`;

/** where the guest has its ports */
const GUEST_FOLDER = '/dev/virtio-ports';

/** The ports that standard streams of commands go through. */
export const execPorts: readonly PortOptions[] = Array.from({ length: SLOTS }, (_, slot) =>
  STREAMS.map((stream) => ({ name: portName(slot, stream) })),
).flat();

/** A command's standard streams, on their way through the ports of one slot. */
export type ExecSlot = {
  /** what the guest calls its ports, but for `.in`, `.out` and `.err` */
  readonly guestPath: string;
  readonly stdin: Duplex;
  readonly stdout: Duplex;
  readonly stderr: Duplex;
  /** whether a process of the guest may still write */
  readonly guestOpen: () => boolean;
  /** Lets go of the ports. May be called again. */
  readonly close: () => void;
};

/** What has ports: a VM. */
export type WithPorts = Pick<RunningVm, 'port'>;

/**
 * @param folder of the ports in the guest
 * @returns undefined where all slots are in use: here, or by a process of the guest that has outlived its command
 */
export function openSlot(vm: WithPorts, folder = GUEST_FOLDER): ExecSlot | undefined {
  for (let slot = 0; slot < SLOTS; slot++) {
    const ports = STREAMS.map((stream) => vm.port(portName(slot, stream)));
    if (!ports.every(isFree)) continue;
    const [stdin, stdout, stderr] = ports.map((port) => {
      const stream = port.open();
      // Its guest is gone, or it is: both are told elsewhere.
      stream.on('error', () => undefined);
      return stream;
    }) as [Duplex, Duplex, Duplex];
    // The guest has nothing to say there, and would wait if nobody read.
    stdin.resume();
    return {
      guestPath: `${folder}/tsvm.exec.${slot}`,
      stdin,
      stdout,
      stderr,
      guestOpen: () => ports.slice(1).some(({ guestOpen }) => guestOpen),
      close: () => {
        for (const stream of [stdin, stdout, stderr]) stream.destroy();
      },
    };
  }
  return undefined;
}

function isFree(port: GuestPort | undefined): port is GuestPort {
  return port !== undefined && !port.isOpen && !port.guestOpen;
}
