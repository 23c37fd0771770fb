import { beforeEach, describe, expect, it } from 'vitest';
import { VM_GENERATION } from '../../../src/boot/layout.ts';
import { DeviceStateError } from '../../../src/kvm/device-state.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { VmGeneration } from '../../../src/machine/vm-generation.ts';

const ID = '00112233-4455-6677-8899-aabbccddeeff';
/** its first three fields little-endian */
const BYTES = [
  0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
];
const SIZE = 0x10_0000;

let memory: GuestMemory;
let told: number;
let generation: VmGeneration;

const build = (): VmGeneration =>
  new VmGeneration(memory, () => {
    told++;
  });
const at = (address: number): number[] => [...memory.read(address, 16)];

beforeEach(() => {
  memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(SIZE) }]);
  told = 0;
  generation = build();
});

describe('the VM generation id', () => {
  it('is in guest memory, and a new VM is not told of it', () => {
    generation.set(ID);
    expect(at(generation.address)).toEqual(BYTES);
    expect(told).toBe(0);
  });

  it('is there before the guest is told that it has changed', () => {
    let seen: number[] = [];
    new VmGeneration(memory, () => (seen = at(VM_GENERATION))).change(ID);
    expect(seen).toEqual(BYTES);
  });

  it('touches nothing beside it', () => {
    memory.fill(0, SIZE, 0xa5);
    generation.set(ID);
    expect(memory.readU8(VM_GENERATION - 1)).toBe(0xa5);
    expect(memory.readU8(VM_GENERATION + 16)).toBe(0xa5);
  });

  it('is a UUID, or nothing is written and nobody told', () => {
    expect(() => generation.change('another')).toThrow(RangeError);
    expect(at(VM_GENERATION)).toEqual(Array(16).fill(0));
    expect(told).toBe(0);
  });
});

describe('of a restored VM', () => {
  it('is where that VM had it', () => {
    generation.restore({ address: 0x8000 });
    generation.change(ID);
    expect(at(0x8000)).toEqual(BYTES);
    expect(at(VM_GENERATION)).toEqual(Array(16).fill(0));
    expect(generation.save()).toEqual({ address: 0x8000 });
  });

  it('can be restored from what was saved', () => {
    const state: unknown = JSON.parse(JSON.stringify(generation.save()));
    const other = build();
    other.restore(state);
    other.change(ID);
    expect(at(VM_GENERATION)).toEqual(BYTES);
  });

  it.each<[string, unknown]>([
    ['no object', 1],
    ['no address', {}],
    ['a negative address', { address: -8 }],
    ['a fraction', { address: 0.5 }],
    ['an address that is not aligned', { address: 0x8004 }],
    ['an address outside RAM', { address: SIZE }],
    ['an id over the end of RAM', { address: SIZE - 8 }],
    ['an address beyond any RAM', { address: Number.MAX_SAFE_INTEGER - 7 }],
  ])('is refused with %s, and nothing changes', (_, state) => {
    expect(() => generation.restore(state)).toThrow(DeviceStateError);
    expect(generation.save()).toEqual({ address: VM_GENERATION });
  });
});
