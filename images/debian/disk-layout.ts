const MIB = 1024 ** 2;
const SECTOR = 512;
/** Linux root (x86-64), Discoverable Partitions Specification */
const ROOT_X86_64 = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709';

export type DiskLayout = {
  /** script for sfdisk(8) */
  readonly script: string;
  /** of the root partition, in bytes; both are multiples of 1 MiB */
  readonly rootOffset: number;
  readonly rootSize: number;
};

/**
 * A GPT with one partition from 1 MiB on. The last MiB is left to the backup of the table (UEFI 2.10, section 5.3).
 * @param diskSize in bytes, a multiple of 1 MiB
 */
export function diskLayout(
  diskSize: number,
  ids: { readonly disk: string; readonly partition: string },
): DiskLayout {
  const rootOffset = MIB;
  const rootSize = diskSize - 2 * MIB;
  const script = [
    'label: gpt',
    `label-id: ${ids.disk}`,
    'unit: sectors',
    `sector-size: ${SECTOR}`,
    '',
    `start=${rootOffset / SECTOR}, size=${rootSize / SECTOR}, type=${ROOT_X86_64}, uuid=${ids.partition}, name="root"`,
    '',
  ].join('\n');
  return { script, rootOffset, rootSize };
}
