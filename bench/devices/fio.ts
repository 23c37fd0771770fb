import { execa } from 'execa';
import type { Workload } from './workloads.ts';

/** fio's version, or undefined where it is not installed. */
export async function fioVersion(): Promise<string | undefined> {
  const { stdout, failed } = await execa('fio', ['--version'], { reject: false });
  return failed ? undefined : stdout.trim();
}

/** Operations a second of the same load on the file, without any VM. */
export async function fioRate(file: string, load: Workload, milliseconds: number): Promise<number> {
  const { op, size, depth } = load;
  const { stdout } = await execa('fio', [
    ...['--name=load', `--filename=${file}`, `--rw=${op}`, `--bs=${size}`, `--iodepth=${depth}`],
    // Through the page cache and what it holds, as the VMMs.
    ...['--ioengine=io_uring', '--direct=0', '--invalidate=0', '--allow_file_create=0'],
    ...['--time_based', `--runtime=${milliseconds}ms`, '--thread', '--output-format=json'],
  ]);
  const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: readonly Record<'read' | 'write', { readonly iops: number }>[];
  };
  return report.jobs[0]![op.endsWith('read') ? 'read' : 'write'].iops;
}
