/** One program in a small Linux guest, under tsvm and under QEMU in turn, on a host that can run it: here or in the lab. */
import { execa } from 'execa';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { cacheRoot, packageRoot } from '../../images/debian/cache.ts';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { kernelOf, type Kernel } from '../../images/debian/kernel.ts';
import { guestHost, type GuestHost } from '../../test/lab/host.ts';
import { findQemu, type Qemu } from '../../test/lab/qemu.ts';
import { canRunGuests } from '../../test/support/can-run-guests.ts';
import { unpackAhead } from '../../test/support/unpack-ahead.ts';
import { ratioRows, summarize } from './statistics.ts';

const RUN_LIMIT_MS = 480_000;
const CMDLINE = 'console=ttyS0 quiet reboot=t panic=-1';

/** `value` is in microseconds an operation */
export type Figure = {
  readonly round: number;
  readonly name: string;
  readonly figure: string;
  readonly value: number;
};

export type Contender = {
  readonly name: string;
  readonly vmm: 'tsvm' | 'qemu';
  /** more of the VMM's arguments */
  readonly args: readonly string[];
  /** lines of the guest's shell before the program */
  readonly setUp: string;
  readonly modules: readonly string[];
  /** a line of the host's shell before the VMM, for what has to run beside it */
  readonly beside?: string;
};

/** Compiles a C program, linked statically: the guest has no libraries. */
export async function buildProgram(source: string): Promise<Buffer> {
  await mkdir(cacheRoot(), { recursive: true });
  const scratch = await mkdtemp(join(cacheRoot(), 'bench-'));
  try {
    const built = join(scratch, basename(source, '.c'));
    await execa('cc', ['-O2', '-Wall', '-static', '-o', built, source]);
    return await readFile(built);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

export class LinuxBench {
  readonly host: GuestHost;
  readonly #qemu: Qemu;
  readonly #kernel: Kernel;

  static async open(): Promise<LinuxBench> {
    const host = await guestHost({ canRunGuests });
    const qemu = await findQemu();
    const kernel = await kernelOf('linux-image-amd64');
    await unpackAhead(kernel.vmlinuz);
    return new LinuxBench(host, qemu, kernel);
  }

  private constructor(host: GuestHost, qemu: Qemu, kernel: Kernel) {
    this.host = host;
    this.#qemu = qemu;
    this.#kernel = kernel;
  }

  /**
   * Boots a contender, and runs the program there.
   * @param line what the guest's shell runs; the program is `/program`, which says `figure NAME OPERATIONS NANOSECONDS`
   *   for each of its figures and `done` at its end
   */
  async measure(round: number, contender: Contender, program: Buffer, line: string): Promise<Figure[]> {
    const { name, vmm, args, setUp, modules, beside } = contender;
    const initrd = await initramfsFile({
      init: `mount -t devtmpfs dev /dev\nload-modules\n${setUp}\n${line}\npoweroff -f\n`,
      modules: { kernel: this.#kernel, names: modules },
      files: [{ type: 'file', path: 'program', mode: 0o755, content: program }],
    });
    const words = vmm === 'tsvm' ? this.#tsvm(initrd, args) : this.#qemuWords(initrd, args);
    const script = `${beside === undefined ? '' : `${beside}; `}exec env "$@"`;
    const { stdout, stderr } = await this.host.exec(['sh', '-c', script, 'sh', ...words], {
      timeoutMs: RUN_LIMIT_MS,
    });
    if (!/^done/m.test(stdout)) throw new Error(`${name} did not end: ${stdout.slice(-2000)}\n${stderr}`);
    return [...stdout.matchAll(/^figure (\S+) (\d+) (\d+)/gm)].map(([, figure = '', operations, ns]) => ({
      round,
      name,
      figure,
      value: Number(ns) / Number(operations) / 1000,
    }));
  }

  #tsvm(initrd: string, args: readonly string[]): string[] {
    return [
      ...[process.execPath, join(packageRoot(), 'dist/tsvm.cjs'), 'run', '--kernel', this.#kernel.vmlinuz],
      ...['--initrd', initrd, '--cmdline', CMDLINE, '--mem', '512M', '--no-reboot', ...args],
    ];
  }

  #qemuWords(initrd: string, args: readonly string[]): string[] {
    const { command, args: first, env } = this.#qemu;
    return [
      ...Object.entries(env).map(([key, value]) => `${key}=${value}`),
      ...[command, ...first, '-M', 'q35', '-nodefaults', '-no-user-config', '-display', 'none'],
      ...['-serial', 'stdio', '-no-reboot', '-accel', 'kvm', '-cpu', 'host', '-m', '512'],
      ...['-kernel', this.#kernel.vmlinuz, '-initrd', initrd, '-append', CMDLINE, ...args],
    ];
  }

  /** Prints the figures, and how often the work of the last contender's time is done by the others. */
  report(
    figures: readonly Figure[],
    contenders: readonly Contender[],
    options: { runs: number; json?: true },
  ): void {
    const names = [...new Set(figures.map(({ figure }) => figure))];
    const peer = contenders.at(-1)!.name;
    const rows = names.flatMap((figure) => {
      const own = figures.filter((each) => each.figure === figure);
      return contenders.map(({ name }) => {
        const values = own.filter((each) => each.name === name).map(({ value }) => value);
        return { figure, ...summarize(name, values, options.runs) };
      });
    });
    const others = contenders.slice(0, -1).map(({ name }) => name);
    const ratios = names.flatMap((figure) => {
      const rates = figures
        .filter((each) => each.figure === figure)
        .map((each) => ({ ...each, value: 1 / each.value }));
      return ratioRows(others, peer, rates).map((row) => ({ figure, ...row }));
    });
    const { kind } = this.host;
    const qemu = this.#qemu.version;
    if (options.json) {
      console.log(JSON.stringify({ host: kind, qemu, options, ratios, rows, figures }, null, 2));
      return;
    }
    console.log(
      `Linux ${this.#kernel.version}, 1 vCPU, QEMU ${qemu}; ${kind}; microseconds an operation (less is better)`,
    );
    console.table(rows);
    console.log(`ratio to ${peer}, round by round (above 1: faster)`);
    console.table(ratios);
  }
}
