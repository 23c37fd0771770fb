import { build } from 'esbuild';
import { join } from 'node:path';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { kernelOf } from '../../images/debian/kernel.ts';
import { vmlinuxOf } from '../../images/debian/vmlinux.ts';
import { SCRATCH_PATH } from './scratch.ts';

/** Not the cloud flavour: it has kvm-amd but no 9p. */
export const LEVEL1_KERNEL = 'linux-image-amd64';
const MODULES = [
  ...[
    'virtio_pci',
    '9pnet_virtio',
    '9p',
    'overlay',
    'virtio_console',
    'virtio_blk',
    'ext4',
    'crc32c_generic',
  ],
  ...['kvm-amd', 'tun'],
];

/** Names that level 1 and its QEMU share. */
export const HOST_TAG = 'host';
export const SHARED_TAG = 'shared';
/** the only virtio-serial port of level 1; how its device is numbered depends on the other virtio devices */
const CONTROL_PORT = '/dev/vport*p1';

const COMMAND_LINE = [
  ...[
    'console=ttyS0',
    'quiet',
    'panic=-1',
    'tsc=reliable',
    'no_timer_check',
    'mitigations=off',
    'nopti',
    'nokaslr',
  ],
  ...['apparmor=0', 'audit=0', 'random.trust_cpu=on', 'cryptomgr.notests', 'rcupdate.rcu_expedited=1'],
  // TCG before QEMU 8 keeps translated code by its virtual address: a program is to be where it was the last time.
  'norandmaps',
].join(' ');

export type Level1 = { readonly kernel: string; readonly initrd: string; readonly commandLine: string };

/**
 * What level 1 boots: Debian's kernel and an initramfs that makes the host's tree its root and starts the agent.
 * @param dir where the agent is put
 * @param shared directory that level 1 and the host both write, under the same path in both
 */
export async function prepareLevel1(dir: string, shared: string): Promise<Level1> {
  const kernel = await kernelOf(LEVEL1_KERNEL);
  const agent = join(dir, 'agent.cjs');
  await build({
    entryPoints: [join(import.meta.dirname, 'agent.ts')],
    outfile: agent,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    logLevel: 'error',
  });
  const initrd = await initramfsFile({
    init: initScript(shared, [process.execPath, agent]),
    modules: { kernel, names: MODULES },
  });
  return { kernel: (await vmlinuxOf(kernel)) ?? kernel.vmlinuz, initrd, commandLine: COMMAND_LINE };
}

/**
 * The host's tree is read through 9p and written in memory only. It becomes the root by switch_root and not by
 * chroot, within which no user namespaces can be made (passt makes one). A shell stays process 1, to reap orphans.
 */
function initScript(shared: string, agent: readonly string[]): string {
  return `
fail() { echo "lab: $*"; sync; for tree in '' /tree; do echo b > $tree/proc/sysrq-trigger; done; sleep 60; }
export PATH=/bin
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs devtmpfs /dev || fail "cannot mount /dev"
load-modules || fail "cannot insert the kernel modules"
[ -c /dev/kvm ] || fail "there is no /dev/kvm: kvm-amd did not accept this CPU"
for attempt in $(seq 100); do [ -c ${CONTROL_PORT} ] && break; usleep 20000; done
port=$(echo ${CONTROL_PORT})
[ -c $port ] || fail "there is no control port"

mkdir -p /host /rw /tree
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 ${HOST_TAG} /host || fail "cannot mount the host's tree"
mount -t tmpfs -o size=75% tmpfs /rw && mkdir /rw/upper /rw/work || fail "cannot mount a tmpfs"
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /tree || fail "cannot mount the overlay"
for dir in proc sys dev; do mount --move /$dir /tree/$dir || fail "cannot move /$dir"; done
mount -t tmpfs -o mode=755 tmpfs /tree/run || fail "cannot mount /run"
mkdir -p ${quoted(`/tree${shared}`)}
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=524288 ${SHARED_TAG} ${quoted(`/tree${shared}`)} || fail "cannot mount the shared directory"
mkdir ${quoted(`/tree${SCRATCH_PATH}`)}
mount -t ext4 -o discard /tree/dev/vda ${quoted(`/tree${SCRATCH_PATH}`)} || fail "cannot mount the scratch disk"
mkdir -p /tree/dev/pts /tree/dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /tree/dev/pts || fail "cannot mount /dev/pts"
mount -t tmpfs -o mode=1777 tmpfs /tree/dev/shm || fail "cannot mount /dev/shm"
ln -sf /proc/self/fd /tree/dev/fd
chmod 666 /tree/dev/kvm /tree/dev/net/tun
ifconfig lo 127.0.0.1 up
hostname lab
exec switch_root /tree /bin/sh -c '"$@"; echo "lab: the agent ended with status $?"; echo b > /proc/sysrq-trigger; sleep 60' \\
  lab ${agent.map(quoted).join(' ')} $port
`;
}

/** A word for the shell. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
