import * as v from 'valibot';
import { VM_GENERATION } from '../boot/layout.ts';
import { checkState, DeviceStateError, unsigned } from '../kvm/device-state.ts';
import type { GuestMemory } from '../kvm/guest-memory.ts';
import { uuidBytes } from './uuid.ts';

const SIZE = 16;
const ALIGNMENT = 8;
const schema = v.strictObject({ address: unsigned(Number.MAX_SAFE_INTEGER) });

/**
 * The VM generation id, which lies in guest memory and tells the guest that it is a copy where it has changed
 * (Microsoft, "Virtual Machine Generation ID", 2012). The tables name its place, so a restored VM has it where the
 * tables of its own say.
 */
export class VmGeneration {
  readonly #memory: GuestMemory;
  readonly #changed: () => void;
  #address = VM_GENERATION;

  /** @param changed raises the event that the guest is told by */
  constructor(memory: GuestMemory, changed: () => void) {
    this.#memory = memory;
    this.#changed = changed;
  }

  /** guest-physical, for the tables of a new VM */
  get address(): number {
    return this.#address;
  }

  /** Sets it in a new VM. @param id a UUID @throws RangeError where it is none */
  set(id: string): void {
    this.#memory.write(this.#address, uuidBytes(id));
  }

  /** Makes this VM another one than the guest knew. @param id a UUID @throws RangeError where it is none */
  change(id: string): void {
    this.set(id);
    this.#changed();
  }

  /** The id itself is saved with the memory. */
  save(): v.InferOutput<typeof schema> {
    return { address: this.#address };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    const { address } = checkState('VM generation', schema, data);
    if (address % ALIGNMENT !== 0 || !this.#memory.contains(address, SIZE)) {
      throw new DeviceStateError(`state of VM generation, address: not in RAM: 0x${address.toString(16)}`);
    }
    this.#address = address;
  }
}
