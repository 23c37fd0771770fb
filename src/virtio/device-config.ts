/** A field of a device's configuration space. */
export type ConfigField<Name extends string = string> = {
  readonly name: Name;
  /** in bytes; one of 1, 2, 4 and 8 is a little-endian number, any width can be set as bytes */
  readonly width: number;
  /** whether the driver may write it; default false */
  readonly writable?: boolean;
};

/** What transports see of a {@link DeviceConfig}. */
export type ConfigRegisters = {
  readonly bytes: Uint8Array;
  /** which bytes the driver may write */
  readonly writable: readonly boolean[];
  /** Told of every change; `byDevice` where the driver has to hear of it. Set by the transport. */
  listener: ((byDevice: boolean) => void) | undefined;
  driverWrite(offset: number, size: number, value: number): void;
};

type Placed = { readonly offset: number; readonly width: number; readonly writable: boolean };

/**
 * The device-specific configuration space (VIRTIO 1.2, 2.5), declared as a list of fields in their order, without
 * gaps. A change by the device reaches the driver as a configuration interrupt with a new generation.
 */
export class DeviceConfig<Name extends string = string> implements ConfigRegisters {
  readonly bytes: Uint8Array;
  readonly writable: readonly boolean[];
  listener: ((byDevice: boolean) => void) | undefined;
  readonly #fields = new Map<Name, Placed>();
  readonly #view: DataView;
  readonly #written: (name: Name) => void;

  /** @param written is called after the driver has written (a part of) a field */
  constructor(fields: readonly ConfigField<Name>[], written: (name: Name) => void = () => undefined) {
    let size = 0;
    for (const { name, width, writable = false } of fields) {
      this.#fields.set(name, { offset: size, width, writable });
      size += width;
    }
    this.bytes = new Uint8Array(size);
    this.writable = fields.flatMap(({ width, writable = false }) => Array<boolean>(width).fill(writable));
    this.#view = new DataView(this.bytes.buffer);
    this.#written = written;
  }

  /** A number field; above 2^53 inexact. */
  get(name: Name): number {
    const { offset, width } = this.#field(name);
    switch (width) {
      case 1:
        return this.#view.getUint8(offset);
      case 2:
        return this.#view.getUint16(offset, true);
      case 4:
        return this.#view.getUint32(offset, true);
      case 8:
        return this.#view.getUint32(offset + 4, true) * 2 ** 32 + this.#view.getUint32(offset, true);
      default:
        throw new RangeError(`configuration field ${name} is no number`);
    }
  }

  /** A copy of a field's bytes. */
  getBytes(name: Name): Uint8Array {
    const { offset, width } = this.#field(name);
    return this.bytes.slice(offset, offset + width);
  }

  /**
   * Changes fields, all of them at once for the driver. Before the driver is there nobody is told.
   * @throws RangeError where a value does not fit its field
   */
  set(values: Partial<Readonly<Record<Name, number | Uint8Array>>>): void {
    for (const [name, value] of Object.entries(values) as [Name, number | Uint8Array | undefined][]) {
      if (value !== undefined) this.#store(name, value);
    }
    this.listener?.(true);
  }

  /** A write of the driver; bytes that it may not write keep their value. */
  driverWrite(offset: number, size: number, value: number): void {
    let changed = false;
    for (let i = 0; i < size; i++) {
      if (this.writable[offset + i] !== true) continue;
      this.bytes[offset + i] = value >>> (8 * i);
      changed = true;
    }
    if (!changed) return;
    this.listener?.(false);
    for (const [name, field] of this.#fields) {
      if (field.writable && field.offset < offset + size && offset < field.offset + field.width) {
        this.#written(name);
      }
    }
  }

  #store(name: Name, value: number | Uint8Array): void {
    const { offset, width } = this.#field(name);
    if (typeof value !== 'number') {
      if (value.length !== width) throw new RangeError(`configuration field ${name} has ${width} bytes`);
      this.bytes.set(value, offset);
      return;
    }
    if (![1, 2, 4, 8].includes(width)) throw new RangeError(`configuration field ${name} is no number`);
    if (!Number.isSafeInteger(value) || value < 0 || value >= 2 ** (8 * width))
      throw new RangeError(`${value} does not fit configuration field ${name}`);
    for (let i = 0, rest = value; i < width; i++, rest = Math.floor(rest / 256)) {
      this.bytes[offset + i] = rest % 256;
    }
  }

  #field(name: Name): Placed {
    const field = this.#fields.get(name);
    if (field === undefined) throw new RangeError(`no configuration field ${name}`);
    return field;
  }
}

/** For devices without configuration fields. */
export function noConfig(): DeviceConfig<never> {
  return new DeviceConfig<never>([]);
}
