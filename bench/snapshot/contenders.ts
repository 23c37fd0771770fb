import { closeSync, mkdirSync, openSync, rmSync, statSync, truncateSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB, PVH_START_INFO } from '../../src/boot/layout.ts';
import { TOUCHED_FILE } from '../../src/vmm/snapshot/touched.ts';
import type { GuestProgram } from '../../test/guests/build.ts';
import type { Qemu } from '../../test/lab/qemu.ts';
import { pvhBootImage } from '../devices/boot-image.ts';
import { compiledScript } from '../support/compiled-script.ts';
import { Qmp } from './qmp.ts';
import { VmmProcess } from './vmm-process.ts';

export type Setting = {
  readonly program: GuestProgram;
  readonly qemu: Qemu;
  /** a folder for snapshots */
  readonly scratch: string;
  /** of the guest, in bytes */
  readonly memory: number;
  /** that the guest has filled, and touches after the restore, in bytes */
  readonly touch: number;
};

/** Times in milliseconds. */
export type Created = {
  /** how long the guest stood still */
  readonly stop: number;
  /** the file's space on the disk, in bytes */
  readonly space: number;
};

/** Inside the VMM, from when it is told what to restore. */
export type Inside = {
  /** to when the vCPUs run */
  readonly entered: number;
  /** to the first byte of the guest's, which a process that does all for the first time takes longer to hear of */
  readonly first: number;
  /** to when the vCPUs run, in a process that has done it before */
  readonly again: number;
};

export type Restored = {
  /** from the start of the process to the first byte of the guest's */
  readonly first: number;
  /** to the end of its look at the working set */
  readonly touched: number;
  /** undefined for one that does not tell */
  readonly inside?: Inside;
};

/** One way to take a snapshot of a machine, and to go on from it. The last one that was taken is what is restored. */
export type Contender = {
  readonly name: string;
  /** @param live the guest runs on while its memory is written */
  create(live: boolean): Promise<Created>;
  restore(): Promise<Restored>;
  /** As {@link restore}, with what the one before has touched in memory of its own; undefined: it knows no such thing */
  readonly prefetched?: () => Promise<Restored>;
};

export const OURS = 'tsvm';
export const PEER = 'qemu';

/**
 * Takes a snapshot, or goes on from one, and once more from it when the guest has ended; the guest's console is the
 * standard input and output. The addon is there before: a VM's process has locked its folder by it.
 */
const RUN_TSVM = `
import { native } from './src/kvm/native.ts';
import { startVm } from './src/vmm/vm.ts';

const { live, folder, restore, prefetch = false, ...options } = JSON.parse(process.argv[2]);

async function start() {
  const begin = performance.now();
  const vm = await startVm({
    ...options,
    ...(restore && { restore: { folder, prefetch } }),
    noReboot: true,
    log: (line) => console.error(line),
  });
  return { vm, begin, entered: vm.timings.firstRun - begin };
}

async function main() {
  native();
  const { vm, begin, entered } = await start();
  let first;
  vm.serial.onData((bytes) => {
    first ??= performance.now() - begin;
    process.stdout.write(bytes);
  });
  process.stdin.on('data', (data) => {
    if (data.toString() === 's') {
      vm.snapshot({ folder, live }).then(
        (result) => {
          console.error(JSON.stringify(result));
          return vm.stop();
        },
        (error) => {
          console.error(error);
          return vm.stop();
        },
      );
    } else void vm.serial.write(data);
  });
  const { reason, message } = await vm.exited;
  process.stdin.destroy();
  if (reason !== 'stopped' && reason !== 'poweroff') throw new Error(message);
  if (!restore) return;
  const second = await start();
  await second.vm.stop();
  console.error(JSON.stringify({ entered, first, again: second.entered }));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
`;

/** A guest in the state in which snapshots are taken: it says x all the time. */
async function prepare(vmm: VmmProcess): Promise<void> {
  await vmm.said('ready');
  vmm.type('x');
  await vmm.said('xxx');
}

/** What a guest has touched is written down soon after that, in milliseconds. */
const SEEN_LIMIT = 10_000;
const SEEN_AFTER = 2500;

/**
 * The guest goes on with its x; then it touches its working set.
 * @param seen whether that has been written down, where it is to be
 */
async function follow(vmm: VmmProcess, seen?: () => boolean): Promise<Omit<Restored, 'inside'>> {
  await vmm.said('x');
  const first = performance.now() - vmm.startedAt;
  vmm.type('t');
  await vmm.said('touched');
  const touched = performance.now() - vmm.startedAt;
  for (const end = performance.now() + SEEN_LIMIT; seen?.() === false && performance.now() < end;)
    await sleep(20);
  vmm.type('q');
  await vmm.ended();
  return { first, touched };
}

/** Numbers of the object that the program's last line on standard error is. */
function told<Name extends string>({ errors }: VmmProcess, ...names: Name[]): Record<Name, number> {
  const line = errors.trim().split('\n').at(-1) ?? '';
  const all = (line.startsWith('{') ? JSON.parse(line) : {}) as Record<string, unknown>;
  if (!names.every((name) => typeof all[name] === 'number')) throw new Error(`tsvm has failed:\n${errors}`);
  return all as Record<Name, number>;
}

export async function tsvm({ program, scratch, memory, touch }: Setting): Promise<Contender> {
  const script = await compiledScript(RUN_TSVM);
  const folder = join(scratch, `tsvm-${memory / MIB}`);
  const options = { kernel: program.elf, cmdline: `touch=${touch}`, memory, folder };
  const start = (more: object): VmmProcess =>
    new VmmProcess(OURS, [process.execPath, script, JSON.stringify({ ...options, ...more })], {});
  // The list is made of a restore that has time for it.
  let isListed = false;
  return {
    name: OURS,
    create: async (live) => {
      isListed = false;
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder);
      await using vmm = start({ live });
      await prepare(vmm);
      vmm.type('s');
      await vmm.ended();
      return { stop: told(vmm, 'stopMs').stopMs, space: spaceOf(join(folder, 'memory')) };
    },
    restore: async () => {
      await using vmm = start({ restore: true });
      const times = await follow(vmm);
      return { ...times, inside: told(vmm, 'entered', 'first', 'again') };
    },
    prefetched: async () => {
      const list = join(folder, TOUCHED_FILE);
      if (!isListed) {
        isListed = true;
        truncateSync(list);
        await using first = start({ restore: true });
        const begin = performance.now();
        await follow(first, () => performance.now() > begin + SEEN_AFTER && statSync(list).size > 0);
      }
      await using vmm = start({ restore: true, prefetch: true });
      const times = await follow(vmm);
      return { ...times, inside: told(vmm, 'entered', 'first', 'again') };
    },
  };
}

export async function qemuMachine({ program, qemu, scratch, memory, touch }: Setting): Promise<Contender> {
  const image = join(scratch, `qemu-${memory / MIB}.boot`);
  await writeFile(image, pvhBootImage(`touch=${touch}`, memory));
  const file = join(scratch, `qemu-${memory / MIB}.migration`);
  const socket = join(scratch, 'qmp.sock');
  const machine = [
    ...[qemu.command, ...qemu.args, '-M', 'q35', '-accel', 'kvm', '-cpu', 'host', '-m', String(memory / MIB)],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
    ...['-bios', program.firmware, '-device', `loader,file=${program.elf}`],
    ...['-device', `loader,file=${image},addr=${PVH_START_INFO},force-raw=on`],
    ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'],
  ];
  return {
    name: PEER,
    create: async (live) => {
      rmSync(file, { force: true });
      rmSync(socket, { force: true });
      await using vmm = new VmmProcess(
        PEER,
        [...machine, '-qmp', `unix:${socket},server=on,wait=off`],
        qemu.env,
      );
      using monitor = await Qmp.open(socket);
      // As fast as the file takes it, and a last stop as short as ours is to be.
      await monitor.do('migrate-set-parameters', { 'max-bandwidth': 2 ** 40, 'downtime-limit': 5 });
      await prepare(vmm);
      const begin = performance.now();
      if (!live) await monitor.do('stop');
      const { downtime } = await monitor.migrate(file);
      const stop = live ? (downtime ?? NaN) : performance.now() - begin;
      return { stop, space: spaceOf(file) };
    },
    restore: async () => {
      const fd = openSync(file, 'r');
      try {
        // Read by QEMU itself: no other process has to copy it.
        await using vmm = new VmmProcess(PEER, [...machine, '-incoming', 'fd:3'], qemu.env, [fd]);
        return await follow(vmm);
      } finally {
        closeSync(fd);
      }
    },
  };
}

const spaceOf = (path: string): number => 512 * statSync(path).blocks;
