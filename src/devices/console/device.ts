import type { Chain } from '../../virtio/chain.ts';
import { DeviceConfig } from '../../virtio/device-config.ts';
import type { Activation, VirtioDevice } from '../../virtio/device.ts';
import { Features } from '../../virtio/features.ts';
import { popOrArm } from '../../virtio/pop-or-arm.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import { CONTROL_SIZE, ControlOutbox, encodeControl, encodeSize, EVENT } from './control.ts';
import type { ControlMessage, DeviceEvent } from './control.ts';
import { ConsolePort, type PortBackend } from './port.ts';
import { checkConsoleState, PORT_LIMIT, type ConsoleState } from './state.ts';

/** Feature bits (VIRTIO 1.2, 5.3.3). */
export const CONSOLE_F = { size: 0, multiport: 1, emergWrite: 2 } as const;

const DEVICE_ID = 3;
/** simple communication controller, other */
const PCI_CLASS = 0x078000;
/** Linux fills a receive queue with a page a request. */
const PORT_QUEUE_SIZE = 64;
const CONTROL_QUEUE_SIZE = 32;
/** Control queues (5.3.2): to the driver, and from it. */
const CONTROL_RECEIVE = 2;
const CONTROL_TRANSMIT = 3;
const MAX_SIZE = 0xffff;

/** udev makes a link of the name, `/dev/virtio-ports/NAME`. */
const PORT_NAME = /^(?!\.{1,2}$)[A-Za-z0-9#+.:=@_-]{1,64}$/;

const receiveQueue = (port: number): number => (port === 0 ? 0 : 2 * port + 2);

export type ConsoleSize = { readonly columns: number; readonly rows: number };

export type ConsolePortOptions = {
  /** what programs in the guest find it by; only a console has none */
  readonly name?: string;
  /** a terminal of the guest (`hvc0`), not a channel to a program; default false */
  readonly console?: boolean;
  readonly backend: PortBackend;
};

export type ConsoleOptions = {
  /** in messages and counters, e.g. `console0` */
  readonly name: string;
  /** consoles get the first ids, in their order; 1 to 30 in all */
  readonly ports: readonly ConsolePortOptions[];
  /** of the terminal of its consoles; default not known, which Linux shows as 0 by 0 */
  readonly size?: ConsoleSize;
  /** takes lines about what a guest did wrong, each of them once */
  readonly log?: (line: string) => void;
  /** calls back later in the event loop; default `setImmediate` */
  readonly defer?: (callback: () => void) => void;
};

/** Where output of a port that is not there goes. */
const NOWHERE: PortBackend = { connect: () => undefined, output: () => true };

/**
 * The virtio console (VIRTIO 1.2, 5.3): terminals of the guest, and named channels to its programs. A single console
 * without a name is offered as a plain one, without MULTIPORT. Linux spins until a console has taken what it writes,
 * so a console's backend has to take everything at once; requests of a named port may wait in its queue.
 */
export class ConsoleDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId = DEVICE_ID;
  readonly pciClass = PCI_CLASS;
  readonly features: Features;
  readonly queueSizes: readonly number[];
  readonly config: DeviceConfig<'cols' | 'rows' | 'maxNrPorts' | 'emergWr'>;
  /** by the guest's id; without a console port 0 is there and not announced, as a driver takes it for one */
  readonly #ports: readonly ConsolePort[];
  readonly #announced: readonly ConsolePort[];
  readonly #outbox = new ControlOutbox();
  readonly #log: (line: string) => void;
  readonly #defer: (callback: () => void) => void;
  readonly #logged = new Set<string>();
  #queues: readonly (Virtqueue | undefined)[] = [];
  #multiport = false;
  #sized = false;
  #deviceReady = false;
  #paused = false;
  /** the guest knows another size, from before a restore */
  #sizeChanged = false;
  #sendDeferred = false;

  /** @throws RangeError for ports that cannot be */
  constructor(options: ConsoleOptions) {
    const ports = [...options.ports].sort((a, b) => Number(b.console ?? false) - Number(a.console ?? false));
    checkPorts(ports);
    this.name = options.name;
    this.#log = options.log ?? (() => undefined);
    this.#defer = options.defer ?? ((callback) => void setImmediate(callback));
    const hasConsole = ports[0]?.console === true;
    const first = hasConsole ? 0 : 1;
    const all: readonly ConsolePortOptions[] = hasConsole ? ports : [{ backend: NOWHERE }, ...ports];
    this.#ports = all.map(
      ({ name, console = false, backend }, id) =>
        new ConsolePort({
          name,
          isConsole: console,
          backend,
          label: `port ${name ?? id} of ${this.name}`,
          defer: this.#defer,
          hostChanged: () => this.#hostChanged(id),
        }),
    );
    this.#announced = this.#ports.slice(first);
    if (!hasConsole) this.#ports[0]!.present = false;
    const plain = hasConsole && ports.length === 1 && ports[0]?.name === undefined;
    this.features = Features.of(
      ...(hasConsole ? [CONSOLE_F.size, CONSOLE_F.emergWrite] : []),
      ...(plain ? [] : [CONSOLE_F.multiport]),
    );
    const pair = [PORT_QUEUE_SIZE, PORT_QUEUE_SIZE];
    this.queueSizes = plain
      ? pair
      : [...pair, CONTROL_QUEUE_SIZE, CONTROL_QUEUE_SIZE, ...this.#ports.slice(1).flatMap(() => pair)];
    this.config = new DeviceConfig(
      [
        { name: 'cols', width: 2 },
        { name: 'rows', width: 2 },
        { name: 'maxNrPorts', width: 4 },
        { name: 'emergWr', width: 4, writable: hasConsole },
      ],
      () => this.#emergencyWrite(),
    );
    this.config.set({ maxNrPorts: this.#ports.length });
    if (options.size !== undefined) this.resize(options.size.columns, options.size.rows);
    for (const port of this.#announced) port.connect();
  }

  /** Tells the guest the size of its terminal, 1 to 65535 each. @throws RangeError */
  resize(columns: number, rows: number): void {
    for (const count of [columns, rows]) {
      if (!Number.isInteger(count) || count < 1 || count > MAX_SIZE)
        throw new RangeError(`a terminal has 1 to ${MAX_SIZE} columns and rows, not ${columns} by ${rows}`);
    }
    // A driver of several ports looks at its messages alone, a plain one at the configuration alone.
    this.config.set({ cols: columns, rows });
    this.#ports.forEach((port, id) => {
      if (port.isConsole && port.ready) this.#postSize(id);
    });
    this.#send();
  }

  /** Takes a port from the guest as if it were pulled out. @throws RangeError where there is none of this name */
  unplug(name: string): void {
    const id = this.#find(name);
    const port = this.#ports[id]!;
    if (!port.present) return;
    port.unplug();
    this.#outbox.drop(id);
    this.#post(id, EVENT.portRemove);
    this.#send();
  }

  /** Puts a port back. @throws RangeError where there is none of this name */
  plug(name: string): void {
    const id = this.#find(name);
    const port = this.#ports[id]!;
    if (port.present) return;
    port.present = true;
    this.#post(id, EVENT.portAdd);
    this.#send();
  }

  /** The device is gone for good: input that waits is rejected, and the backends are disconnected. */
  close(): void {
    for (const port of this.#announced) port.close();
  }

  activate({ queues, features }: Activation): void {
    this.#queues = queues;
    this.#multiport = features.has(CONSOLE_F.multiport);
    this.#sized = features.has(CONSOLE_F.size);
    this.#ports.forEach((port, id) => {
      if (id > 0 && !this.#multiport) return;
      const receive = receiveQueue(id);
      port.attach(queues[receive], queues[receive + 1]);
    });
    // Without control messages the driver cannot say that it listens.
    if (!this.#multiport) this.#ports[0]!.setGuestOpen(true);
  }

  notified(index: number): void {
    if (index === CONTROL_RECEIVE) this.#send();
    else if (index === CONTROL_TRANSMIT) this.#receiveControl();
    else {
      const port = this.#ports[index < CONTROL_RECEIVE ? 0 : (index >> 1) - 1];
      if ((index & 1) === 0) port?.fill();
      else port?.serve();
    }
  }

  reset(): undefined {
    this.#queues = [];
    this.#multiport = this.#sized = this.#deviceReady = false;
    this.#outbox.clear();
    for (const port of this.#ports) port.detach();
  }

  pause(): Promise<void> {
    this.#paused = true;
    for (const port of this.#ports) port.pause();
    return Promise.resolve();
  }

  resume(): void {
    this.#paused = false;
    for (const port of this.#ports) port.resume();
    if (this.#sizeChanged) {
      this.#sizeChanged = false;
      this.resize(this.config.get('cols'), this.config.get('rows'));
    }
  }

  save(): ConsoleState {
    return {
      columns: this.config.get('cols'),
      rows: this.config.get('rows'),
      deviceReady: this.#deviceReady,
      ports: this.#ports.map((port) => port.save()),
      outbox: this.#outbox.save(),
    };
  }

  restore(data: unknown): void {
    const state = checkConsoleState(this.name, data, this.#ports.length);
    this.#deviceReady = state.deviceReady;
    this.#outbox.restore(state.outbox);
    this.#ports.forEach((port, id) => {
      const saved = state.ports[id]!;
      port.restore({ ...saved, present: saved.present && this.#announced.includes(port) });
      if (port.ready && port.hostOpen !== saved.hostOpen) {
        this.#outbox.post(id, EVENT.portOpen, Number(port.hostOpen));
      }
    });
    const columns = this.config.get('cols');
    const rows = this.config.get('rows');
    if (columns === 0) {
      // nobody on this side knows better than the guest
      if (state.columns > 0 && state.rows > 0) this.config.set({ cols: state.columns, rows: state.rows });
    } else this.#sizeChanged = columns !== state.columns || rows !== state.rows;
  }

  /** A character without queues (5.3.4), for a driver that is not there yet. */
  #emergencyWrite(): void {
    this.#ports[0]?.emergency(this.config.get('emergWr') & 0xff);
  }

  #receiveControl(): void {
    const queue = this.#queues[CONTROL_TRANSMIT];
    if (queue === undefined || !this.#multiport) return;
    queue.drain((chain) => {
      this.#handle(chain);
      queue.push(chain.head, 0);
    });
    this.#send();
  }

  #handle({ readable }: Chain): void {
    if (readable.byteLength < CONTROL_SIZE) return;
    const id = readable.readU32(0);
    const event = readable.readU16(4);
    const value = readable.readU16(6);
    if (event === EVENT.deviceReady) {
      this.#deviceReady = value !== 0;
      if (!this.#deviceReady) this.#complain('the guest could not set the device up');
      this.#ports.forEach((port, each) => {
        if (port.present) this.#post(each, EVENT.portAdd);
      });
      return;
    }
    const port = this.#ports[id];
    if (port?.present !== true) return;
    if (event === EVENT.portReady) {
      port.ready = value !== 0;
      if (port.ready) this.#introduce(id, port);
      else this.#complain(`the guest could not set port ${port.name ?? id} up`);
    } else if (event === EVENT.portOpen) port.setGuestOpen(value !== 0);
  }

  /** Tells the driver what a port is that it has set up. */
  #introduce(id: number, port: ConsolePort): void {
    if (port.isConsole) {
      this.#post(id, EVENT.consolePort);
      if (this.config.get('cols') > 0) this.#postSize(id);
    }
    if (port.name !== undefined) this.#post(id, EVENT.portName);
    if (port.hostOpen) this.#post(id, EVENT.portOpen);
  }

  #hostChanged(id: number): void {
    const port = this.#ports[id]!;
    if (!port.ready) return;
    this.#post(id, EVENT.portOpen, Number(port.hostOpen));
    this.#send();
  }

  #postSize(id: number): void {
    if (this.#sized) this.#post(id, EVENT.resize, 0);
  }

  #post(port: number, event: DeviceEvent, value = 1): void {
    // Before DEVICE_READY there is nobody to hear it, and everything is said after it.
    if (this.#multiport && this.#deviceReady) this.#outbox.post(port, event, value);
  }

  /** Sends messages as far as the driver has given buffers. */
  #send(): void {
    const queue = this.#queues[CONTROL_RECEIVE];
    if (queue === undefined || this.#paused) return;
    for (let message = this.#outbox.first; message !== undefined; message = this.#outbox.first) {
      const chain = popOrArm(queue, () => this.#sendLater());
      if (chain === undefined) break;
      this.#outbox.shift();
      const bytes = encodeControl(message, this.#payload(message));
      const fits = bytes.length <= chain.writable.byteLength;
      if (!fits) this.#complain('the guest gives control buffers that are too small, and misses messages');
      queue.push(chain.head, fits ? chain.writable.write(0, bytes) : 0);
    }
    queue.flush();
    if (this.#outbox.length === 0) queue.disableNotifications();
  }

  #sendLater(): void {
    if (this.#sendDeferred) return;
    this.#sendDeferred = true;
    this.#defer(() => {
      this.#sendDeferred = false;
      this.#send();
    });
  }

  #payload({ event, port }: ControlMessage): Uint8Array {
    if (event === EVENT.resize) return encodeSize(this.config.get('cols'), this.config.get('rows'));
    if (event === EVENT.portName) return new TextEncoder().encode(this.#ports[port]?.name ?? '');
    return new Uint8Array(0);
  }

  #find(name: string): number {
    const id = this.#ports.findIndex((port) => port.name === name);
    if (id < 0) throw new RangeError(`${this.name} has no port ${name}`);
    return id;
  }

  #complain(line: string): void {
    if (this.#logged.has(line)) return;
    this.#logged.add(line);
    this.#log(`${this.name}: ${line}`);
  }
}

function checkPorts(ports: readonly ConsolePortOptions[]): void {
  if (ports.length < 1 || ports.length >= PORT_LIMIT)
    throw new RangeError(`a console device has 1 to ${PORT_LIMIT - 1} ports, not ${ports.length}`);
  const names = new Set<string>();
  for (const { name, console = false } of ports) {
    if (name === undefined) {
      if (!console) throw new RangeError('a port that is no console needs a name');
      continue;
    }
    if (!PORT_NAME.test(name))
      throw new RangeError(
        `'${name}' is no port name: it has 1 to 64 letters, digits and characters of #+-.:=@_`,
      );
    if (names.has(name)) throw new RangeError(`two ports have the name ${name}`);
    names.add(name);
  }
}
