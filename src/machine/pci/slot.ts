import * as v from 'valibot';
import type { AccessSize, Bus, IrqLine, ReadMode, RegionHandle, WriteMode } from '../../kvm/bus.ts';
import type { MessageSource } from '../../kvm/notify.ts';
import type { MemoryRange } from '../../boot/layout.ts';
import type { PciCapability, PciFunction, PciSlot } from '../../virtio/pci-function.ts';
import { RegisterImage } from '../../virtio/register-image.ts';
import { byte, checkState, DeviceStateError } from '../../kvm/device-state.ts';
import { Bars } from './bars.ts';
import { Msix } from './msix.ts';
import { COMMAND, CONFIG, CONFIG_SIZE, ECAM_FUNCTION_SIZE, MSIX, PCI_STATUS } from './registers.ts';

const COMMAND_WRITABLE =
  COMMAND.memorySpace |
  COMMAND.busMaster |
  COMMAND.parityError |
  COMMAND.systemError |
  COMMAND.interruptDisable;

export type SlotOptions = {
  readonly bus: Bus;
  /** guest-physical address of the function's page in ECAM */
  readonly ecam: number;
  readonly function: PciFunction;
  /** where BARs may be */
  readonly windows: readonly MemoryRange[];
  /** where they are at first, by index */
  readonly addresses: ReadonlyMap<number, number>;
  readonly messages: MessageSource;
  /** what INTA# goes to */
  readonly irq: IrqLine;
};

const schema = v.strictObject({
  /** configuration space as the guest reads it */
  config: v.pipe(v.array(byte), v.length(CONFIG_SIZE)),
  msix: v.optional(v.strictObject({ table: v.array(byte), pending: v.array(byte) })),
  function: v.unknown(),
});

type Window = NonNullable<PciCapability['window']> & { readonly at: number; readonly body: DataView };

/** One function on the bus: its configuration space, and what that controls. */
export class FunctionSlot implements PciSlot {
  readonly function: PciFunction;
  readonly #config = new RegisterImage(ECAM_FUNCTION_SIZE);
  /** configuration space after reset, and which bits of it software may write */
  readonly #initial: Uint8Array;
  readonly #writable = new Uint8Array(CONFIG_SIZE);
  readonly #bars: Bars;
  readonly #msix: Msix | undefined;
  readonly #irq: IrqLine;
  readonly #region: RegionHandle;
  #windows: Window[] = [];
  #msixControl = 0;
  #pin = false;

  constructor(options: SlotOptions) {
    const fn = options.function;
    this.function = fn;
    this.#irq = options.irq;
    this.#msix = fn.msix && new Msix(fn.name, fn.msix, options.messages);
    this.#bars = new Bars(
      options.bus,
      options.windows,
      this.#config,
      fn.bars,
      new Map(fn.msix && this.#msix ? [[fn.msix.bar, this.#msix.regions]] : []),
    );
    this.#header();
    this.#bars.initialize(options.addresses, this.#writable);
    this.#capabilities();
    this.#initial = this.#config.bytes.slice(0, CONFIG_SIZE);
    const reads = new Array<ReadMode>(ECAM_FUNCTION_SIZE).fill('shadow');
    for (const { at } of this.#windows) reads.fill('trap', at, at + 4);
    this.#region = options.bus.add({
      name: `${fn.name} config space`,
      space: 'mmio',
      base: options.ecam,
      size: ECAM_FUNCTION_SIZE,
      // What a write does here must have happened before the guest goes on: it decides what is on the bus.
      reads,
      writes: new Array<WriteMode>(ECAM_FUNCTION_SIZE).fill('ignore').fill('trap', 0, CONFIG_SIZE),
      read: (offset, size) => this.readConfig(offset, size),
      write: (offset, size, value) => this.writeConfig(offset, size, value),
    });
    this.#config.bind(this.#region.shadow);
    fn.attach(this);
  }

  get msixEnabled(): boolean {
    return this.#msix?.enabled ?? false;
  }

  message(vector: number): void {
    this.#msix?.message(vector);
  }

  pin(high: boolean): void {
    this.#pin = high;
    this.#drive();
  }

  readBar(bar: number, offset: number, size: AccessSize): number {
    return this.#bars.read(bar, offset, size);
  }

  writeBar(bar: number, offset: number, size: AccessSize, value: number): void {
    this.#bars.write(bar, offset, size, value);
  }

  /** A read of configuration space that has an effect where a capability says so. */
  readConfig(offset: number, size: AccessSize): number {
    for (const window of this.#windows) {
      if (offset < window.at + 4 && window.at < offset + size) {
        this.#config.set32(window.at, window.read(window.body));
      }
    }
    return offset + size <= ECAM_FUNCTION_SIZE ? this.#config.get(offset, size) : 2 ** (8 * size) - 1;
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    if (offset + size > CONFIG_SIZE) return;
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const mask = this.#writable[at]!;
      const before = this.#config.bytes[at]!;
      this.#config.set8(at, (before & ~mask) | ((value >>> (8 * i)) & mask));
    }
    const touches = (from: number, to: number): boolean => offset < to && from < offset + size;
    if (touches(CONFIG.command, CONFIG.status) || touches(CONFIG.bars, CONFIG.bars + 24)) this.#follow();
    if (touches(this.#msixControl, this.#msixControl + 2)) this.#controlMsix();
    for (const window of this.#windows) {
      if (touches(window.at, window.at + 4)) window.write(window.body);
    }
  }

  /** As the bus's RST#: configuration space as at first, then the function. */
  reset(): Promise<void> {
    this.#config.setBytes(0, this.#initial);
    this.#msix?.reset();
    this.#pin = false;
    this.#follow();
    return this.function.reset();
  }

  save(): unknown {
    return {
      config: [...this.#config.bytes.subarray(0, CONFIG_SIZE)],
      ...(this.#msix && { msix: this.#msix.save() }),
      function: this.function.save(),
    };
  }

  /** @throws DeviceStateError or StateError, with nothing changed */
  restore(data: unknown): void {
    const { name } = this.function;
    const state = checkState(name, schema, data);
    const sizes = this.#msix?.save();
    if (
      state.msix?.table.length !== sizes?.table.length ||
      state.msix?.pending.length !== sizes?.pending.length ||
      state.config.some(
        (value, at) => ((value ^ this.#initial[at]!) & ~this.#writable[at]!) !== 0 && !isLive(at),
      )
    ) {
      throw new DeviceStateError(`state of ${name}: configuration space of another function`);
    }
    this.function.restore(state.function);
    state.config.forEach((value, at) => {
      const mask = this.#writable[at]!;
      this.#config.set8(at, (this.#initial[at]! & ~mask) | (value & mask));
    });
    if (state.msix) this.#msix?.restore(state.msix);
    this.#controlMsix();
    this.#follow();
  }

  close(): void {
    this.#msix?.reset();
    this.#bars.update(false);
    this.#irq.set(false);
    this.#region.remove();
  }

  #header(): void {
    const { identity, interruptPin } = this.function;
    const config = this.#config;
    config.set16(CONFIG.vendor, identity.vendor);
    config.set16(CONFIG.device, identity.device);
    config.set8(CONFIG.revision, identity.revision);
    config.set8(CONFIG.classCode, identity.classCode & 0xff);
    config.set16(CONFIG.classCode + 1, identity.classCode >>> 8);
    config.set16(CONFIG.subsystemVendor, identity.subsystemVendor);
    config.set16(CONFIG.subsystem, identity.subsystem);
    config.set8(CONFIG.interruptPin, interruptPin ? 1 : 0);
    this.#writable.set([COMMAND_WRITABLE & 0xff, COMMAND_WRITABLE >>> 8], CONFIG.command);
    this.#writable[CONFIG.cacheLineSize] = 0xff;
    this.#writable[CONFIG.interruptLine] = 0xff;
  }

  /** Lays out the list of capabilities (6.7). @throws RangeError where they do not fit */
  #capabilities(): void {
    const { msix } = this.function;
    const list: PciCapability[] = [...this.function.capabilities];
    if (msix) list.unshift({ id: MSIX.capability, body: msixBody(msix), writable: [] });
    let at: number = CONFIG.end;
    let link: number = CONFIG.capabilities;
    for (const { id, body, writable = [], window } of list) {
      if (at + 2 + body.length > CONFIG_SIZE)
        throw new RangeError(`${this.function.name}: too many capabilities`);
      this.#config.set8(link, at);
      this.#config.set8(at, id);
      this.#config.setBytes(at + 2, body);
      for (const [from, to] of writable) this.#writable.fill(0xff, at + 2 + from, at + 2 + to);
      if (id === MSIX.capability) {
        this.#msixControl = at + 2;
        this.#writable[at + 3] = (MSIX.enable | MSIX.functionMask) >>> 8;
      }
      if (window) {
        const view = new DataView(this.#config.bytes.buffer, at + 2, body.length);
        this.#windows.push({ ...window, at: at + 2 + window.offset, body: view });
      }
      link = at + 1;
      at = Math.ceil((at + 2 + body.length) / 4) * 4;
    }
    if (list.length > 0) this.#config.set16(CONFIG.status, PCI_STATUS.capabilities);
  }

  #follow(): void {
    this.#bars.update((this.#config.get(CONFIG.command, 2) & COMMAND.memorySpace) !== 0);
    this.#drive();
  }

  #controlMsix(): void {
    this.#msix?.control(this.#config.get(this.#msixControl, 2));
    this.#drive();
  }

  /** INTA# follows the function unless it is disabled; the status bit does so regardless (6.2.3). */
  #drive(): void {
    const disabled = (this.#config.get(CONFIG.command, 2) & COMMAND.interruptDisable) !== 0;
    const asserted = this.#pin && !this.msixEnabled;
    const status = this.#config.get(CONFIG.status, 2);
    this.#config.set16(
      CONFIG.status,
      asserted ? status | PCI_STATUS.interrupt : status & ~PCI_STATUS.interrupt,
    );
    this.#irq.set(asserted && !disabled);
  }
}

/** Bytes that change without being written. */
const isLive = (at: number): boolean => at === CONFIG.status;

function msixBody(msix: NonNullable<PciFunction['msix']>): Uint8Array {
  const body = new Uint8Array(10);
  const view = new DataView(body.buffer);
  view.setUint16(0, msix.vectors - 1, true);
  view.setUint32(2, msix.table | msix.bar, true);
  view.setUint32(6, msix.pending | msix.bar, true);
  return body;
}
