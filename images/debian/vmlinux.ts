import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { debianCache, step, writeAtomically } from './cache.ts';
import type { Kernel } from './kernel.ts';

const XZ_MAGIC = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]);
const ELF_MAGIC = Buffer.from([0x7f, 0x45, 0x4c, 0x46]);

/**
 * The ELF kernel within a bzImage, as a file in the cache: where the CPU is emulated, decompressing takes the guest
 * longer than all the rest of its start. Undefined where it is not compressed with xz or there is no `xz` to do it.
 */
export async function vmlinuxOf(kernel: Pick<Kernel, 'version' | 'vmlinuz'>): Promise<string | undefined> {
  // The package's directory carries its version, which the name of the kernel does not.
  const packageName = basename(join(kernel.vmlinuz, '../..'));
  const path = join(debianCache(), 'vmlinux', `${packageName}-${kernel.version}`);
  if (existsSync(path)) return path;
  const payload = xzPayload(await readFile(kernel.vmlinuz));
  if (payload === undefined) return undefined;
  const { stdout, failed } = await step(`decompressing the kernel ${kernel.version}`, () =>
    execa('xz', ['--decompress', '--stdout', '--single-stream'], {
      input: payload,
      encoding: 'buffer',
      maxBuffer: 1024 ** 3,
      reject: false,
    }),
  );
  if (failed || !ELF_MAGIC.equals(stdout.subarray(0, 4))) return undefined;
  await writeAtomically(path, stdout);
  return path;
}

/** Documentation/arch/x86/boot.rst: setup_sects at 0x1f1, payload_offset at 0x248, payload_length at 0x24c. */
function xzPayload(image: Buffer): Buffer | undefined {
  if (image.length < 0x250) return undefined;
  // A zero stands for 4 sectors; one more is the boot sector itself.
  const protectedMode = ((image.readUInt8(0x1f1) || 4) + 1) * 512;
  const start = protectedMode + image.readUInt32LE(0x248);
  // The build appends the decompressed size, 4 bytes.
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c) - 4);
  return XZ_MAGIC.equals(payload.subarray(0, XZ_MAGIC.length)) ? payload : undefined;
}
