import { UnpackError, UnpackerMissing } from './unpack-error.ts';

/** Kernels are packed with dictionaries of 32 to 128 MiB; a file may ask for up to 4 GiB. */
const MEMORY_LIMIT = '512MiB';

/**
 * Unpacks .xz data with the `xz` tool: the libraries for Node lack the x86 filter that kernels are packed with, or are
 * slower than it is.
 * @param limit most bytes to unpack to; xz is ended at once where it gives more
 * @throws UnpackError on damaged data
 * @throws UnpackerMissing where there is no `xz`
 */
export async function unpackXz(packed: Uint8Array, limit: number): Promise<Uint8Array> {
  // Loaded here: a start with an unpacked kernel has no use for it.
  const { execa } = await import('execa');
  const result = await execa(
    'xz',
    ['--decompress', '--stdout', '--format=xz', `--memlimit-decompress=${MEMORY_LIMIT}`],
    {
      input: packed,
      encoding: 'buffer',
      maxBuffer: limit,
      stripFinalNewline: false,
      reject: false,
      // options from these would come on top of ours
      env: { XZ_DEFAULTS: '', XZ_OPT: '', LC_ALL: 'C' },
    },
  );
  if (!result.failed) return result.stdout;
  if (result.code === 'ENOENT') {
    throw new UnpackerMissing('it takes the xz tool, in the package xz-utils on Debian and Ubuntu');
  }
  if (result.isMaxBuffer) throw new UnpackError('it unpacks to more than it may');
  const message = new TextDecoder().decode(result.stderr).trim().split('\n').at(-1) ?? '';
  throw new UnpackError(message.replace(/^xz: (\(stdin\): )?/, '') || result.shortMessage);
}
