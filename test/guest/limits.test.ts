/** CPU and memory limits of a VM that hold: in the lab, which has the control groups that its host may not give away. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { buildGuestProgram } from '../guests/build.ts';
import type { GuestHost } from '../lab/host.ts';
import { openHost } from './support.ts';
import { HostTsvm } from './tsvm.ts';

const LIMIT_MS = 200_000;

let host: GuestHost;
let folder: string;

beforeAll(async () => {
  host = await openHost();
  folder = join(host.scratch, 'limits');
});
afterAll(async () => {
  await host.exec(`rm -rf '${folder}'`);
  await host.close();
});

it('are given, changed while the VM runs, and gone with it', async ({ skip }) => {
  skip(
    host.kind !== 'lab',
    'only the lab may be changed; test/kvm/vm-limits.test.ts does what this host lets it',
  );
  const { elf } = await buildGuestProgram('echo');
  await host.exec(['mkdir', '-p', folder]);
  const tsvm = new HostTsvm(host, folder, LIMIT_MS);
  const { code, stdout, stderr } = await tsvm.tryShell(
    `mkdir -p /sys/fs/cgroup
     mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
     truncate -s 1M disk.raw
     t create ./disk.raw web --kernel '${elf}' --mem 64M --net none --cpu-limit 0.1 --memory-limit 512M > /dev/null
     t start web > /dev/null 2>&1
     group=$(ls -d /sys/fs/cgroup/tsvm-web-*)
     cat "$group/cpu.max" "$group/memory.max"
     # Starting alone takes more than a tenth of a processor.
     awk '$1 == "nr_throttled" { print ($2 > 0 ? "throttled" : "free") }' "$group/cpu.stat"
     t set --cpu-limit 0.5 --memory-limit none web > /dev/null
     cat "$group/cpu.max" "$group/memory.max"
     t delete --force web > /dev/null
     ls -d /sys/fs/cgroup/tsvm-* 2> /dev/null | wc -l`,
  );
  expect({ code, stdout, stderr }).toEqual({
    code: 0,
    stdout: `10000 100000\n${512 * 2 ** 20}\nthrottled\n50000 100000\nmax\n0\n`,
    stderr: '',
  });
});
