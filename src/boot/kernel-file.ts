import { recognize } from './recognize.ts';
import { openSource, type ByteSource } from './source.ts';
import { cachedUnpack, kernelCacheDir } from './unpack-cache.ts';
import { unpackKernel } from './unpack.ts';

export type OpenKernelOptions = {
  /**
   * unpack the kernel in a bzImage here, once, instead of each time in the guest; default true. The guest then has no
   * KASLR for the kernel image: it is the unpacking code in the bzImage that chooses another address and relocates.
   */
  readonly unpack?: boolean;
  /** where unpacked kernels are kept; default {@link kernelCacheDir} */
  readonly cacheDir?: string;
};

export type OpenedKernel = {
  /** a bzImage or an ELF file, ready for loadLinux; its user closes it */
  readonly source: ByteSource;
  /** why a bzImage stayed packed although it was to be unpacked; one line for a log */
  readonly note?: string;
};

/**
 * Opens a kernel file and unpacks it where it is packed: a file packed as a whole always, the kernel in a bzImage
 * unless told otherwise. A bzImage that cannot be unpacked on this host boots as it is.
 * @throws BootError for what is no kernel, and for damaged packed data
 */
export async function openKernel(path: string, options: OpenKernelOptions = {}): Promise<OpenedKernel> {
  const { unpack = true, cacheDir = kernelCacheDir() } = options;
  const file = openSource(path);
  let keep = false;
  try {
    const { kind } = recognize(file);
    if (kind === 'elf' || (kind === 'bzImage' && !unpack)) {
      keep = true;
      return { source: file };
    }
    const variant = unpack ? 'vmlinux' : 'image';
    return await cachedUnpack(file, { dir: cacheDir, variant }, (packed) => unpackKernel(packed, unpack));
  } finally {
    if (!keep) file.close();
  }
}
