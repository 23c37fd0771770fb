import { execa } from 'execa';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CpioEntry } from '../../images/debian/cpio.ts';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import type { Kernel } from '../../images/debian/kernel.ts';
import { fetchClosure } from '../../images/debian/packages.ts';

const LIBRARIES = 'lib/x86_64-linux-gnu';
const LOADER = 'lib64/ld-linux-x86-64.so.2';
/** What init says on the console before anything else. */
export const FIRST_LINE = 'init: here';

/** What udev would do for the ports. Their names come in order: once the last one has its own, all have. */
const initOf = (setUp: string): string => `
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
echo '${FIRST_LINE}'
load-modules
mkdir -p /dev/virtio-ports
link_ports() {
  for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] && ln -sf "../$(basename "$port")" "/dev/virtio-ports/$(cat "$port/name")"
  done
}
until [ -e /dev/virtio-ports/tsvm.exec.2.err ]; do link_ports; done
link_ports
${setUp}
exec qemu-ga --method=virtio-serial --path=/dev/virtio-ports/org.qemu.guest_agent.0 --statedir=/run --pidfile=/run/agent.pid
`;

/** Lines of init by which its first network card gets an address; the module is virtio_net. */
export const NETWORK_UP = `
mkdir -p /etc
cat > /bin/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
[ -z "$router" ] || ip route add default via $router
echo "nameserver $dns" > /etc/resolv.conf
END
chmod 755 /bin/lease
ip link set lo up
ip link set eth0 up
udhcpc -q -n -t 20 -i eth0 -s /bin/lease
`;

/** A program of a Debian package, for the guest's /bin. */
export type GuestProgram = { readonly package: string; readonly path: string };

const AGENT: GuestProgram = { package: 'qemu-guest-agent', path: 'usr/sbin/qemu-ga' };

export type AgentGuest = {
  /** besides those of the agent's port */
  readonly modules?: readonly string[];
  readonly programs?: readonly GuestProgram[];
  /** lines of init before the agent */
  readonly setUp?: string;
};

/**
 * An initramfs whose init is Debian's qemu-guest-agent: the smallest guest that `tsvm exec` can talk to. @returns its
 * path
 */
export async function agentInitramfs(kernel: Kernel, guest: AgentGuest = {}): Promise<string> {
  const { modules = [], programs = [], setUp = '' } = guest;
  const files = new Map<string, CpioEntry>();
  for (const program of [AGENT, ...programs])
    for (const entry of await withLibraries(program)) files.set(entry.path, entry);
  return initramfsFile({
    init: initOf(setUp),
    files: [...files.values()],
    modules: { kernel, names: ['virtio_pci', 'virtio_console', ...modules] },
  });
}

async function withLibraries({ package: name, path }: GuestProgram): Promise<CpioEntry[]> {
  const { root } = await fetchClosure(name);
  const program = join(root, path);
  const search = [LIBRARIES, `usr/${LIBRARIES}`].map((folder) => join(root, folder)).join(':');
  const { stdout } = await execa(join(root, LOADER), ['--library-path', search, '--list', program]);
  const libraries = stdout
    .split('\n')
    .map((line) => /=> (\S+)/.exec(line)?.[1])
    .filter((library) => library?.startsWith(root));
  const copy = async (from: string, to: string): Promise<CpioEntry> => ({
    type: 'file',
    path: to,
    content: await readFile(from),
    mode: 0o755,
  });
  return [
    await copy(program, `bin/${basename(path)}`),
    await copy(join(root, LOADER), LOADER),
    ...(await Promise.all(libraries.map((library) => copy(library!, `${LIBRARIES}/${basename(library!)}`)))),
  ];
}
