/** Rows of text in columns. */
import { printable } from './errors.ts';

const GAP = 2;

/**
 * The heading and the rows, each on a line that fits the terminal: the last column is cut off where it must be. What
 * comes from files is shown without control characters.
 */
export function table(
  heading: readonly string[],
  rows: readonly (readonly string[])[],
  columns: number = process.stdout.isTTY ? process.stdout.columns : Infinity,
): string {
  const shown = [heading, ...rows.map((row) => row.map(printable))];
  const widths = heading.map((_, at) => Math.max(...shown.map((row) => row[at]?.length ?? 0)));
  return shown
    .map((row) =>
      row
        .map((cell, at) => cell.padEnd((widths[at] ?? 0) + GAP))
        .join('')
        .trimEnd(),
    )
    .map((line) => `${line.length > columns ? `${line.slice(0, columns - 1)}…` : line}\n`)
    .join('');
}
