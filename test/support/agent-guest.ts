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

/** What udev would do for the ports; the last one tells that all are there. */
const INIT = `
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo '${FIRST_LINE}'
load-modules
mkdir -p /dev/virtio-ports
until [ -e /dev/virtio-ports/tsvm.exec.2.err ]; do
  for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] && ln -sf "../$(basename "$port")" "/dev/virtio-ports/$(cat "$port/name")"
  done
done
exec qemu-ga --method=virtio-serial --path=/dev/virtio-ports/org.qemu.guest_agent.0 --statedir=/run --pidfile=/run/agent.pid
`;

/** An initramfs whose init is Debian's qemu-guest-agent: the smallest guest that `tsvm exec` can talk to. @returns its path */
export async function agentInitramfs(kernel: Kernel, more: readonly string[] = []): Promise<string> {
  const { root } = await fetchClosure('qemu-guest-agent');
  const program = join(root, 'usr/sbin/qemu-ga');
  const search = [LIBRARIES, `usr/${LIBRARIES}`].map((folder) => join(root, folder)).join(':');
  const { stdout } = await execa(join(root, LOADER), ['--library-path', search, '--list', program]);
  const libraries = stdout
    .split('\n')
    .map((line) => /=> (\S+)/.exec(line)?.[1])
    .filter((path) => path?.startsWith(root));
  const copy = async (from: string, path: string): Promise<CpioEntry> => ({
    type: 'file',
    path,
    content: await readFile(from),
    mode: 0o755,
  });
  return initramfsFile({
    init: INIT,
    files: [
      await copy(program, 'bin/qemu-ga'),
      await copy(join(root, LOADER), LOADER),
      ...(await Promise.all(libraries.map((path) => copy(path!, `${LIBRARIES}/${basename(path!)}`)))),
    ],
    modules: { kernel, names: ['virtio_pci', 'virtio_console', ...more] },
  });
}
