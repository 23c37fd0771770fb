/** A small Linux under load that looks at itself: what is wrong begins a line with `error`. */
import { join } from 'node:path';
import { packageRoot } from '../../images/debian/cache.ts';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { initOf, TSVM } from './support.ts';

/** Steps of a chain of hashes, a disk written and read again, time that never goes back, and a timer. */
const SCRIPT = `
load-modules
until [ -b /dev/vda ]; do sleep 0.1; done
dmesg -c > /dev/null
( hash=start; count=0
  while :; do
    hash=$(echo $hash | sha256sum); hash=\${hash%% *}; count=$((count + 1)); echo "chain $count $hash"
  done ) &
( count=0
  while :; do
    count=$((count + 1)); place=$((count % 8 * 4))
    dd if=/dev/urandom of=/tmp/block bs=256k count=4 2> /dev/null
    dd if=/tmp/block of=/dev/vda bs=256k seek=$place conv=fsync 2> /dev/null || echo "error: write $count"
    echo 3 > /proc/sys/vm/drop_caches
    wanted=$(md5sum < /tmp/block); read=$(dd if=/dev/vda bs=256k skip=$place count=4 2> /dev/null | md5sum)
    [ "$wanted" = "$read" ] || echo "error: disk $count: $wanted $read"
    echo "disk $count"
  done ) &
( last=0; count=0
  while sleep 0.05; do
    read now _ < /proc/uptime; now=\${now%.*}\${now#*.}
    [ $now -lt $last ] && echo "error: time went back from $last to $now"
    [ $last -gt 0 ] && [ $((now - last)) -gt 3000 ] && echo "error: time went from $last to $now"
    last=$now; count=$((count + 1)); [ $((count % 10)) = 0 ] && echo "clock $count"
  done ) &
( while sleep 5; do dmesg -c | grep -iE 'BUG|lockup|stall|hung|I/O error|unstable|call trace' | sed 's/^/error: /'; done ) &
count=0
while sleep 0.5; do count=$((count + 1)); echo "alive $count"; done
`;

export type Rounds = {
  readonly rounds: number;
  readonly transport: 'pci' | 'mmio';
  readonly cpus: number;
  readonly live: boolean;
  /** each snapshot has what has changed since the one before alone */
  readonly incremental: boolean;
};

export type RoundsSeen = {
  readonly error?: string;
  /** how long the guest stood still, in milliseconds, round by round */
  readonly stops: readonly number[];
  /** bytes of memory that were written */
  readonly written: readonly number[];
  readonly log: string;
  readonly console: string;
};

/** Saves the guest and has it go on from there, in turn. */
export async function snapshotRounds(
  host: GuestHost,
  kernel: Kernel,
  rounds: Rounds,
  limitMs: number,
): Promise<RoundsSeen> {
  const modules = [rounds.transport === 'pci' ? 'virtio_pci' : 'virtio_mmio', 'virtio_blk'];
  const names = [...modules, 'virtio-rng', 'virtio_balloon'];
  const initrd = await initramfsFile({ init: initOf(SCRIPT), modules: { kernel, names } });
  const program = join(import.meta.dirname, 'programs/snapshot-rounds.mjs');
  const library = join(packageRoot(), 'dist/index.js');
  const folder = join(
    host.scratch,
    `rounds-${rounds.transport}-${rounds.cpus}-${rounds.live}-${rounds.incremental}`,
  );
  const command = ['node', program, library, TSVM, kernel.vmlinuz, initrd, folder, JSON.stringify(rounds)];
  const { stdout, stderr } = await host.exec(command, { timeoutMs: limitMs });
  await host.exec(['rm', '-rf', folder]);
  const line = stdout.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{')) throw new Error(`no answer: ${stdout}${stderr}`);
  return JSON.parse(line) as RoundsSeen;
}
