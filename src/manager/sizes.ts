/** Sizes as the user writes and reads them: powers of 1024 throughout. */

const PAGE = 4096;
const UNITS = { '': 1024 ** 2, K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 } as const;

/** What the user gave cannot be read. The message does not repeat the text, the caller names it. */
export class SizeError extends Error {
  override readonly name = 'SizeError';
}

/**
 * Bytes that a text like `512M`, `1.5GiB`, `2 gb` or `768` means; a bare number counts MiB, as with QEMU and
 * kvmtool. The result is cut to whole pages of 4 KiB.
 * @throws SizeError where the text is no size, is less than a page, or is too large to be counted exactly
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?) ?(?:([KMGT])(?:i?B)?)?$/i.exec(text.trim());
  if (match === null) {
    throw new SizeError('not a size; write a number with K, M, G or T, such as 512M or 1.5G');
  }
  const unit = (match[2] ?? '').toUpperCase() as keyof typeof UNITS;
  const bytes = Math.floor((Number(match[1]) * UNITS[unit]) / PAGE) * PAGE;
  if (!Number.isSafeInteger(bytes)) throw new SizeError('too large');
  if (bytes === 0) throw new SizeError('less than one page of 4 KiB');
  return bytes;
}

/** The kernel takes no quota of less than a millisecond in 100. */
const LEAST_CPU_TIME = 0.01;
const MOST_CPU_TIME = 1024;

/** CPUs' worth of time, such as `1.5`. @throws SizeError */
export function parseCpuTime(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value < LEAST_CPU_TIME || value > MOST_CPU_TIME)
    throw new SizeError(`not a number of CPUs from ${LEAST_CPU_TIME} to ${MOST_CPU_TIME}, such as 1.5`);
  return value;
}

/** A size for people: the largest unit that it is at least one of, with at most one decimal. */
export function formatSize(bytes: number): string {
  let value = bytes;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    // From 1023.95 on one decimal would say 1024 of the smaller unit.
    if (value < 1023.95) return `${Number(value.toFixed(1))} ${unit}`;
    value /= 1024;
  }
  return `${Number(value.toFixed(1))} TiB`;
}
