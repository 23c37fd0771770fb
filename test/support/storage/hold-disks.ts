/** A program that has disks open as a VM has them: arguments as of `tsvm run --disk`, until standard input ends. */
import { parseDisk } from '../../../src/manager/options/device-options.ts';
import { Peripherals } from '../../../src/vmm/peripherals.ts';

const disks = process.argv.slice(2).map(parseDisk);
const log = (line: string): void => console.error(line);
const options = {
  disks,
  console: 'serial',
  networks: [],
  ports: [],
  shares: [],
  rng: false,
  log,
  memory: 2 ** 29,
  cpus: 1,
} as const;
try {
  const peripherals = await Peripherals.open(options);
  console.log('open');
  for await (const line of process.stdin) {
    const [, index, size] = /^resize (\d+) (\d+)$/m.exec(String(line)) ?? [];
    if (index === undefined) continue;
    await peripherals.resizeDisk(Number(index), Number(size));
    console.log('resized');
  }
  await peripherals.close();
} catch (error) {
  const hint = error instanceof Error && 'hint' in error ? String(error.hint) : '';
  console.log(`${error instanceof Error ? error.message : String(error)}\n${hint}`);
}
