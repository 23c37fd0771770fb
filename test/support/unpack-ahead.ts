import { openKernel } from '../../src/boot/kernel-file.ts';

/** Unpacks a kernel into the cache that `tsvm run` looks in, also from inside the lab, which sees this host's files. */
export async function unpackAhead(vmlinuz: string): Promise<void> {
  const { source } = await openKernel(vmlinuz);
  source.close();
}
