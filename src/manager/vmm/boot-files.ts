import { withGuestDisk } from '../../storage/guest-fs/guest-disk.ts';
import { extractBoot } from '../images/boot/extract.ts';
import { withConsole } from '../vms/command-line.ts';
import type { VmSettings } from '../vms/settings.ts';

/** What a VM boots. Paths may be relative to its folder. */
export type BootFiles = {
  readonly kernel: string;
  readonly initrds: readonly string[];
  readonly cmdline: string | undefined;
  /** what the boot loader's choice was, for the log */
  readonly notes: readonly string[];
};

/** Copies of what the guest has, in the VM's folder. */
const FOLDER = 'boot';

/**
 * The kernel of the settings, or else the one that the boot loader on the first disk would boot: the guest may have
 * upgraded it since the last start.
 * @throws NotBootableError, GuestFsError, StorageError
 */
export async function bootFilesOf({ boot, disks, vm }: VmSettings): Promise<BootFiles> {
  const { kernel, initrd, cmdline } = boot;
  const initrds = initrd === undefined ? [] : [initrd];
  if (kernel !== undefined) return { kernel, initrds, cmdline, notes: [] };
  const [disk] = disks;
  if (disk === undefined) throw new Error('the VM has neither a kernel nor a disk to boot from');
  const { file, format, trustBacking } = disk;
  const source = { path: file, format, ...(trustBacking && { backing: { trusted: true } }) };
  const found = await withGuestDisk(source, (guest) => extractBoot(guest, FOLDER));
  return {
    kernel: found.kernel,
    initrds: initrd === undefined ? found.initrds : initrds,
    cmdline: cmdline ?? withConsole(found.commandLine, vm.console),
    notes: [
      `boots ${found.boot.title} of ${found.boot.source}`,
      ...found.boot.notes,
      ...(found.wasCached ? [] : [`its kernel was copied to ${FOLDER}/`]),
    ],
  };
}
