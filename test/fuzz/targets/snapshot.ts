/**
 * Snapshots that were changed after they were written, by files of state and of memory: refused with a word for a
 * person, or a machine goes on from there. Most cases have no KVM: the state is read, and devices go on from it on a bus
 * of their own; or memory is laid together of files. Some start a real VM.
 */
import { deepStrictEqual, ok } from 'node:assert';
import {
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB } from '../../../src/boot/layout.ts';
import { DeviceStateError } from '../../../src/kvm/device-state.ts';
import { openSnapshot } from '../../../src/vmm/snapshot/open.ts';
import { SnapshotError } from '../../../src/vmm/snapshot/error.ts';
import {
  formatState,
  parseState,
  STATE_FILE,
  type EncodedMachineState,
  type MemoryLayer,
} from '../../../src/vmm/snapshot/state-file.ts';
import type { VmOptions } from '../../../src/vmm/types.ts';
import { startVm } from '../../../src/vmm/vm.ts';
import { buildGuestProgram } from '../../guests/build.ts';
import type { FuzzTarget } from '../engine.ts';
import { GuardedRam } from '../guarded-ram.ts';
import { mutateJson } from '../mutate-json.ts';
import { Random } from '../random.ts';
import { QUEUE_SIZE, RINGS, SnapshotBoard } from '../snapshot-board.ts';

const PAGE = 4096;
const TRANSPORTS = ['pci', 'mmio'] as const;
type Transport = (typeof TRANSPORTS)[number];

/** One of so many cases is of memory files, and one of a real VM. */
const MEMORY_SHARE = 40;
const KVM_SHARE = 1000;
const VM_MEMORY = 32 * MIB;
/** for the VM of a case, in milliseconds */
const RUN_MS = 2;

/** The devices' RAM: rings and what they lead to, and where the VM generation id is. */
const RAM = [
  { base: 0, size: 0x4000 },
  { base: 0xe_f000, size: PAGE },
] as const;
const FIRST_RING = 0x1000;
const nothing = new Uint8Array(0xf_0000);
const content = memoryOfDriver(new Random(3));

/** Chains of descriptors that make some sense, and available rings that have them all, but show none. */
function memoryOfDriver(random: Random): Uint8Array {
  const bytes = random.fill(Uint8Array.from(nothing));
  const view = new DataView(bytes.buffer);
  for (let ring = FIRST_RING; ring < RAM[0].size; ring += RINGS.size) {
    bytes.fill(0, ring + RINGS.driver, ring + RINGS.size);
    for (let i = 0; i < QUEUE_SIZE; i++) {
      view.setUint32(ring + 16 * i, random.below(RAM[0].size), true);
      view.setUint32(ring + 16 * i + 4, 0, true);
      view.setUint32(ring + 16 * i + 8, random.between(1, 64), true);
      view.setUint16(ring + 16 * i + 12, random.below(4), true);
      view.setUint16(ring + 16 * i + 14, random.below(QUEUE_SIZE), true);
      view.setUint16(ring + RINGS.driver + 4 + 2 * i, i, true);
    }
  }
  return bytes;
}

const isRefusal = (error: unknown): boolean =>
  error instanceof SnapshotError && /^[^\n]{10,2000}$/.test(error.message) && error.code.length > 0;

/** A state of devices that are up, with processors that nobody starts. */
async function stateWithoutKvm(transport: Transport): Promise<EncodedMachineState> {
  const board = new SnapshotBoard(new GuardedRam(new Random(1), RAM, content).memory, transport);
  board.start(FIRST_RING);
  await board.pause();
  const devices = board.save();
  board.close();
  // Shorter than KVM's are: nobody takes them, and there are many cases.
  const bytes = Buffer.alloc(96).toString('base64');
  const vcpu = {
    ...{ cpuid: bytes, tscKhz: 2_000_000, sregs: bytes, regs: bytes, xcrs: bytes, xsave: bytes },
    ...{ debugregs: bytes, lapic: bytes, events: bytes, mpState: bytes },
    msrs: [[0x10, 'ff00'] as [number, string], [0x174, '0'] as [number, string]],
  };
  return {
    created: 1.7e12,
    tsvm: '0.1.0',
    uuid: '00112233-4455-6677-8899-aabbccddeeff',
    cpus: 2,
    transport,
    devices: ['rng0', 'balloon0', 'echo0', 'fields0'],
    memory: {
      size: 0x4_0000,
      layers: [
        { file: 'memory.0' },
        {
          file: 'memory',
          extents: [
            [0, PAGE],
            [0x8000, 0x2000],
          ],
        },
      ],
    },
    board: {
      ...devices,
      vcpus: [vcpu, vcpu],
      vm: { irqchips: [bytes, bytes, bytes], pit: bytes, clock: '123456789' },
    },
  };
}

/** The text of a state with wrong parts; mostly its checksum is right, so that these are looked at. */
function damaged(random: Random, state: EncodedMachineState): string {
  const changed = structuredClone(state);
  const { board, memory } = changed;
  const parts = [changed, memory, board, board.virtio, board.virtio, board.virtio, board.power, board.rtc];
  const more = [board.serial, board.keyboard, board.vm, board.vcpus[0], board.generation, board.pciConfig];
  mutateJson(random, random.pick([...parts, ...more]));
  const text = formatState(changed);
  if (!random.oneIn(6)) return text;
  const cut = random.below(text.length);
  switch (random.below(4)) {
    case 0:
      return text.slice(0, cut);
    case 1:
      return text.slice(0, cut) + String.fromCharCode(random.below(256)) + text.slice(cut + 1);
    case 2:
      return text.slice(0, cut) + text.slice(random.below(text.length));
    default: {
      const whole = JSON.parse(text) as unknown;
      mutateJson(random, whole);
      return JSON.stringify(whole);
    }
  }
}

/** Devices go on from what was read, and can be saved again. */
async function devicesGoOn(random: Random, state: EncodedMachineState): Promise<void> {
  const text = damaged(random, state);
  const read = parseState(text, STATE_FILE);
  const { size, layers } = read.memory;
  for (const { extents } of layers) for (const [at, length] of extents ?? []) ok(at + length <= size);
  ok(read.board.vcpus.length === read.cpus);
  const ram = new GuardedRam(random, RAM, content);
  // Some queues have something new, as where a driver was about to notify.
  for (let i = random.below(4); i > 0; i--)
    ram.memory.writeU16(
      FIRST_RING + RINGS.size * random.below(10) + RINGS.driver + 2,
      random.below(QUEUE_SIZE),
    );
  const transport = read.transport === 'pci' ? 'pci' : 'mmio';
  const board = new SnapshotBoard(ram.memory, transport);
  try {
    board.restore(read.board);
    board.resume();
    board.use(random);
    await board.pause();
    const saved = board.save();
    deepStrictEqual(JSON.parse(JSON.stringify(saved)), saved);
  } catch (error) {
    // What VirtualMachine makes of it.
    if (!(error instanceof DeviceStateError)) throw error;
    throw new SnapshotError(STATE_FILE, 'EHOST', error.message);
  } finally {
    board.close();
    ram.checkGuards();
  }
}

const stampOf = (layer: number, page: number): number => layer * 0x1_0000 + page + 1;

/** A file of which each page says where it is from. */
function writeMemory(path: string, size: number, layer: number): void {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += PAGE) bytes.writeUInt32LE(stampOf(layer, at / PAGE), at);
  writeFileSync(path, bytes);
}

/** Memory is what its files say, the last that has a page. */
function memoryIsWhole(random: Random, folder: string, state: EncodedMachineState): void {
  const size = PAGE * random.between(1, 48);
  // Mostly one after the other, and inside.
  const extents = (): [number, number][] => {
    let at = 0;
    return Array.from({ length: random.below(5) }, (): [number, number] => {
      at += PAGE * (random.oneIn(12) ? random.below(50) - 8 : random.below(8));
      const length = PAGE * (random.oneIn(12) ? random.below(50) : random.between(1, 4));
      at += length;
      return [at - length, length];
    }).filter(([from, length]) => random.oneIn(12) || from + length <= size);
  };
  const layers: MemoryLayer[] = Array.from({ length: random.between(1, 4) }, (_, index) => ({
    file: `memory.${index}`,
    ...(index > 0 && { extents: extents() }),
  }));
  layers.forEach(({ file }, index) => {
    if (random.oneIn(24)) return;
    if (random.oneIn(24)) mkdirSync(join(folder, file));
    else writeMemory(join(folder, file), random.oneIn(12) ? random.below(2 * size) : size, index);
  });
  const changed = structuredClone({ ...state, memory: { size, layers } });
  if (random.oneIn(3)) mutateJson(random, changed.memory);
  writeFileSync(join(folder, STATE_FILE), formatState(changed));
  const { cpus, transport } = state;
  const { ram, state: read } = openSnapshot({ folder }, { memory: size, cpus, transport });
  try {
    for (let page = 0; page < size / PAGE; page++) {
      const of = read.memory.layers.findLast(
        ({ extents: own }) =>
          own?.some(([at, length]) => page * PAGE >= at && page * PAGE < at + length) ?? true,
      )!;
      const index = Number(of.file.split('.')[1]);
      deepStrictEqual(ram.memory.readU32(page * PAGE), stampOf(index, page));
    }
    deepStrictEqual(ram.memory.size, size);
  } finally {
    ram.close();
  }
}

type Sample = {
  readonly options: VmOptions;
  readonly state: EncodedMachineState;
  readonly memory: Uint8Array;
};

/** Real snapshots; none where there is no KVM. */
async function samples(): Promise<Sample[]> {
  const taken: Sample[] = [];
  const { elf: kernel } = await buildGuestProgram('echo');
  for (const [cpus, transport] of [1, 2].flatMap((count) =>
    TRANSPORTS.map((each) => [count, each] as const),
  )) {
    const folder = mkdtempSync(join(tmpdir(), 'tsvm-fuzz-'));
    const options = {
      kernel,
      memory: VM_MEMORY,
      cpus,
      transport,
      rng: true,
      balloon: {},
      console: 'hvc0',
    } as const;
    try {
      const vm = await startVm(options);
      try {
        await new Promise<void>((resolve) => void vm.serial.onData(() => resolve()));
        await vm.snapshot({ folder, stop: true });
      } finally {
        await vm.stop();
      }
      const { machine } = JSON.parse(readFileSync(join(folder, STATE_FILE), 'utf8')) as {
        machine: EncodedMachineState;
      };
      // The guest has less than a MiB of its own.
      taken.push({
        options,
        state: machine,
        memory: readFileSync(join(folder, 'memory')).subarray(0, 2 * MIB),
      });
    } catch (error) {
      console.warn(`no case has a real VM: ${String(error)}`);
      return [];
    } finally {
      rmSync(folder, { recursive: true });
    }
  }
  return taken;
}

/** A VM goes on from it, whatever it then does, or ends for a reason of its guest's. */
async function vmGoesOn(random: Random, folder: string, { options, state, memory }: Sample): Promise<void> {
  const fd = openSync(join(folder, 'memory'), 'w');
  const bytes = Uint8Array.from(memory);
  if (random.oneIn(3)) random.fill(bytes.subarray(MIB, MIB + 256));
  writeFileSync(fd, bytes);
  ftruncateSync(fd, random.oneIn(16) ? random.below(2 * VM_MEMORY) : VM_MEMORY);
  closeSync(fd);
  writeFileSync(join(folder, STATE_FILE), random.oneIn(16) ? formatState(state) : damaged(random, state));
  const vm = await startVm({ ...options, noReboot: true, restore: { folder } });
  await new Promise((resolve) => setTimeout(resolve, RUN_MS));
  await vm.stop();
  const { message } = await vm.exited;
  ok(!message.includes('a bug of tsvm'), message);
}

const withoutKvm = await Promise.all(TRANSPORTS.map(stateWithoutKvm));
const real = await samples();

export const snapshotTarget: FuzzTarget = {
  name: 'snapshot',
  async run(random) {
    const needsFolder = random.oneIn(MEMORY_SHARE);
    const needsKvm = random.oneIn(KVM_SHARE) && real.length > 0;
    const folder = needsFolder || needsKvm ? mkdtempSync(join(tmpdir(), 'tsvm-fuzz-')) : '';
    try {
      if (needsKvm) await vmGoesOn(random, folder, random.pick(real));
      else if (needsFolder) memoryIsWhole(random, folder, random.pick(withoutKvm));
      else await devicesGoOn(random, random.pick(withoutKvm));
    } catch (error) {
      if (!isRefusal(error)) throw error;
    } finally {
      if (folder !== '') rmSync(folder, { recursive: true, force: true });
    }
  },
};
