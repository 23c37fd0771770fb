import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { cacheRoot, temporaryName } from '../../images/debian/cache.ts';

/** A guest program, built from the folder of its name beside this file. */
export type GuestProgram = {
  /** ELF file with a PVH note, loaded at 1 MiB */
  readonly elf: string;
  /** 64 KiB to be mapped below 4 GiB: enters the program where something else has loaded it; not of all */
  readonly firmware: string;
};

/** Ring 3 without any register but the general ones: what state the others are in differs from KVM to KVM. */
const COMPILER_FLAGS = [
  '-std=gnu11',
  '-O2',
  '-m64',
  '-ffreestanding',
  '-fno-strict-aliasing',
  '-fno-pic',
  '-mgeneral-regs-only',
  '-fno-stack-protector',
  '-fcf-protection=none',
  '-fno-asynchronous-unwind-tables',
  '-Wall',
  '-Wextra',
  '-Werror',
];
const LINKER_FLAGS = [
  '-nostdlib',
  '-static',
  '-no-pie',
  '-Wl,-T,program.ld',
  '-Wl,--build-id=none',
  '-Wl,-z,max-page-size=4096',
];
const FIRMWARE = 'firmware.S';
/** A program that has its own is all there is of it. */
const LINKER_SCRIPT = 'program.ld';
/** what other programs have: the way in, the board, virtio's transports and queues */
const SHARED = join(import.meta.dirname, 'machine');

async function list(folder: string): Promise<string[]> {
  return (await readdir(folder)).sort().map((file) => join(folder, file));
}

/** Builds the program, unless it has been built from the same sources already. @throws what the compiler says */
export async function buildGuestProgram(name: string): Promise<GuestProgram> {
  const own = join(import.meta.dirname, name);
  const isAlone = existsSync(join(own, LINKER_SCRIPT));
  const files = (await Promise.all((isAlone ? [own] : [SHARED, own]).map(list))).flat();
  const hash = createHash('sha256').update(JSON.stringify([COMPILER_FLAGS, LINKER_FLAGS]));
  for (const file of files) hash.update(`\0${basename(file)}\0`).update(await readFile(file));
  const built = join(cacheRoot(), 'guests', `${name}-${hash.digest('hex').slice(0, 16)}`);
  if (!existsSync(built)) {
    const scratch = temporaryName(built);
    await mkdir(scratch, { recursive: true });
    try {
      const run = execa({ cwd: isAlone ? own : SHARED });
      const sources = files.filter((file) => /\.[cS]$/.test(file) && basename(file) !== FIRMWARE);
      await run`cc ${COMPILER_FLAGS} -I${SHARED} ${LINKER_FLAGS} -o ${join(scratch, 'program.elf')} ${sources}`;
      if (!isAlone) {
        const object = join(scratch, 'firmware.o');
        await run`cc -c -o ${object} ${FIRMWARE}`;
        await run`ld --oformat=binary -Ttext=0 -o ${join(scratch, 'firmware.bin')} ${object}`;
      }
      await rename(scratch, built).catch((error: unknown) => {
        // Another process was faster with the same.
        if (!existsSync(built)) throw error;
      });
    } finally {
      await rm(scratch, { recursive: true, force: true });
    }
  }
  return { elf: join(built, 'program.elf'), firmware: join(built, 'firmware.bin') };
}
