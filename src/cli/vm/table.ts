const GAP = 2;
const NARROWEST = 8;

/**
 * Columns of text under their heads. Where standard output is a terminal and they do not fit, the last columns are
 * cut, each to what is left.
 */
export function formatTable(
  heads: readonly string[],
  rows: readonly (readonly string[])[],
  width: number | undefined = process.stdout.isTTY ? process.stdout.columns : undefined,
): string {
  const widths = heads.map((head, i) => Math.max(head.length, ...rows.map((row) => (row[i] ?? '').length)));
  let left = width ?? Infinity;
  const fitted = widths.map((wanted) => {
    const given = Math.max(Math.min(wanted, NARROWEST), Math.min(wanted, left));
    left -= given + GAP;
    return given;
  });
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => {
        const room = fitted[i] ?? 0;
        return (cell.length > room ? `${cell.slice(0, room - 1)}…` : cell).padEnd(room + GAP);
      })
      .join('')
      .trimEnd();
  return [heads, ...rows].map((cells) => `${line(cells)}\n`).join('');
}
