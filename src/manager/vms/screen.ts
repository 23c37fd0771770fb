/** What a VM's console shows: its output through a terminal, as text, ANSI sequences or SVG. */
import xterm, { type IBufferCell } from '@xterm/headless';

export type ScreenSize = {
  /** of the terminal, in characters; default 80 by 24 */
  readonly columns?: number;
  readonly rows?: number;
};

/** Colour of a terminal: its default, one of its palette of 256, or 24 bits of red, green and blue. */
export type ScreenColor =
  { readonly kind: 'default' } | { readonly kind: 'palette' | 'rgb'; readonly value: number };

export type ScreenStyle = {
  readonly foreground: ScreenColor;
  readonly background: ScreenColor;
  readonly bold: boolean;
  readonly dim: boolean;
  readonly italic: boolean;
  readonly underline: boolean;
  readonly inverse: boolean;
};

/** Characters in a row that look the same. */
export type ScreenRun = {
  readonly column: number;
  readonly text: string;
  readonly style: ScreenStyle;
  /** in columns: some characters have two */
  readonly width: number;
};

const PLAIN: ScreenStyle = {
  foreground: { kind: 'default' },
  background: { kind: 'default' },
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  inverse: false,
};

/** A picture of a console; it does not change with it. */
export class VmScreen {
  readonly columns: number;
  readonly rows: number;
  /** from 0 on */
  readonly cursor: { readonly column: number; readonly row: number };
  /** runs of each row; what is plain and blank behind the last character is left out */
  readonly runs: readonly (readonly ScreenRun[])[];

  /** @param output of the console, decoded by the terminal itself */
  static async of(output: Uint8Array, { columns = 80, rows = 24 }: ScreenSize = {}): Promise<VmScreen> {
    const terminal = new xterm.Terminal({ cols: columns, rows, scrollback: 0, allowProposedApi: true });
    try {
      await new Promise<void>((resolve) => terminal.write(output, resolve));
      return new VmScreen(terminal);
    } finally {
      terminal.dispose();
    }
  }

  private constructor(terminal: InstanceType<typeof xterm.Terminal>) {
    const { active } = terminal.buffer;
    this.columns = terminal.cols;
    this.rows = terminal.rows;
    this.cursor = { column: Math.min(active.cursorX, terminal.cols - 1), row: active.cursorY };
    this.runs = Array.from({ length: terminal.rows }, (_, row) => {
      const line = active.getLine(active.baseY + row);
      const runs: { column: number; text: string; style: ScreenStyle; width: number }[] = [];
      for (let column = 0; line !== undefined && column < terminal.cols; column++) {
        const cell = line.getCell(column);
        // The second half of a wide character has no width of its own.
        if (cell === undefined || cell.getWidth() === 0) continue;
        const style = styleOf(cell);
        const text = cell.getChars() === '' ? ' ' : cell.getChars();
        const last = runs.at(-1);
        const width = cell.getWidth();
        if (last !== undefined && sameStyle(last.style, style)) {
          last.text += text;
          last.width += width;
        } else runs.push({ column, text, style, width });
      }
      const last = runs.at(-1);
      if (last !== undefined && sameStyle(last.style, PLAIN)) {
        const kept = last.text.trimEnd();
        last.width -= last.text.length - kept.length;
        last.text = kept;
        if (last.text === '') runs.pop();
      }
      return runs;
    });
  }

  /** Rows without colours; those that are empty at the end are left out. */
  text(): string {
    const lines = this.runs.map((runs) =>
      runs
        .map(({ text }) => text)
        .join('')
        .trimEnd(),
    );
    const end = lines.findLastIndex((line) => line !== '');
    return lines
      .slice(0, end + 1)
      .map((line) => `${line}\n`)
      .join('');
  }

  /** As {@link text}, with colours and styles as a terminal takes them (ECMA-48). */
  ansi(): string {
    const end = this.runs.findLastIndex((runs) => runs.length > 0);
    return this.runs
      .slice(0, end + 1)
      .map((runs) => `${runs.map(({ text, style }) => styled(text, style)).join('')}\n`)
      .join('');
  }

  /** A picture with the text in it, for browsers and documents. */
  svg(): string {
    const width = this.columns * CELL.width + 2 * MARGIN;
    const height = this.rows * CELL.height + 2 * MARGIN;
    const shapes = this.runs.flatMap((runs, row) => runs.map((run) => svgRun(run, row)));
    const { column, row } = this.cursor;
    return [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
      `<rect width="100%" height="100%" fill="${BACKGROUND}"/>`,
      `<g font-family="monospace" font-size="${FONT_SIZE}" xml:space="preserve">`,
      ...shapes,
      `<rect x="${x(column)}" y="${y(row)}" width="${CELL.width}" height="${CELL.height}" fill="${FOREGROUND}" fill-opacity="0.4"/>`,
      '</g>',
      '</svg>',
      '',
    ].join('\n');
  }
}

function styleOf(cell: IBufferCell): ScreenStyle {
  const color = (isDefault: boolean, isRgb: boolean, value: number): ScreenColor =>
    isDefault ? { kind: 'default' } : { kind: isRgb ? 'rgb' : 'palette', value };
  return {
    foreground: color(cell.isFgDefault(), cell.isFgRGB(), cell.getFgColor()),
    background: color(cell.isBgDefault(), cell.isBgRGB(), cell.getBgColor()),
    bold: cell.isBold() !== 0,
    dim: cell.isDim() !== 0,
    italic: cell.isItalic() !== 0,
    underline: cell.isUnderline() !== 0,
    inverse: cell.isInverse() !== 0,
  };
}

const sameColor = (a: ScreenColor, b: ScreenColor): boolean =>
  a.kind === b.kind && (a.kind === 'default' || b.kind === 'default' || a.value === b.value);

const sameStyle = (a: ScreenStyle, b: ScreenStyle): boolean =>
  sameColor(a.foreground, b.foreground) &&
  sameColor(a.background, b.background) &&
  (['bold', 'dim', 'italic', 'underline', 'inverse'] as const).every((name) => a[name] === b[name]);

/** SGR, ECMA-48 8.3.117; colours of ISO 8613-6. */
function styled(text: string, style: ScreenStyle): string {
  const flags = { bold: 1, dim: 2, italic: 3, underline: 4, inverse: 7 } as const;
  const codes = [
    ...Object.entries(flags)
      .filter(([name]) => style[name as keyof typeof flags])
      .map(([, code]) => code),
    ...colorCodes(style.foreground, 38),
    ...colorCodes(style.background, 48),
  ];
  return codes.length === 0 ? text : `\x1b[${codes.join(';')}m${text}\x1b[0m`;
}

function colorCodes(color: ScreenColor, base: 38 | 48): number[] {
  if (color.kind === 'default') return [];
  if (color.kind === 'palette') return [base, 5, color.value];
  return [base, 2, (color.value >> 16) & 0xff, (color.value >> 8) & 0xff, color.value & 0xff];
}

/** in units of the picture */
const CELL = { width: 8.4, height: 17 } as const;
const FONT_SIZE = 14;
const BASELINE = 13;
const MARGIN = 8;
const FOREGROUND = '#d0d0d0';
const BACKGROUND = '#101010';

const x = (column: number): string => (MARGIN + column * CELL.width).toFixed(1);
const y = (row: number): string => (MARGIN + row * CELL.height).toFixed(1);

function svgRun({ column, text, style, width: columns }: ScreenRun, row: number): string {
  const [front, back] = [hexOf(style.foreground, FOREGROUND), hexOf(style.background, BACKGROUND)];
  const [fill, behind] = style.inverse ? [back, front] : [front, back];
  const width = (columns * CELL.width).toFixed(1);
  const box =
    behind === BACKGROUND
      ? ''
      : `<rect x="${x(column)}" y="${y(row)}" width="${width}" height="${CELL.height}" fill="${behind}"/>`;
  if (text.trim() === '' && !style.underline) return box;
  const looks = [
    style.bold ? ' font-weight="bold"' : '',
    style.italic ? ' font-style="italic"' : '',
    style.underline ? ' text-decoration="underline"' : '',
    style.dim ? ' opacity="0.6"' : '',
  ].join('');
  const base = (MARGIN + row * CELL.height + BASELINE).toFixed(1);
  // Fonts differ in width: the columns stay where they are.
  return `${box}<text x="${x(column)}" y="${base}" textLength="${width}" fill="${fill}"${looks}>${escaped(text)}</text>`;
}

const escaped = (text: string): string =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll(/\p{Cc}/gu, ' ');

const SYSTEM = [
  ...['#000000', '#cd3131', '#0dbc79', '#e5e510', '#2472c8', '#bc3fbc', '#11a8cd', '#e5e5e5'],
  ...['#666666', '#f14c4c', '#23d18b', '#f5f543', '#3b8eea', '#d670d6', '#29b8db', '#ffffff'],
];

function hexOf(color: ScreenColor, byDefault: string): string {
  if (color.kind === 'default') return byDefault;
  if (color.kind === 'rgb') return hex(color.value >> 16, color.value >> 8, color.value);
  const { value } = color;
  const system = SYSTEM[value];
  if (system !== undefined) return system;
  // The cube of 6 by 6 by 6 colours, and 24 greys: as xterm has them.
  if (value >= 232) return hex(...grey(8 + (value - 232) * 10));
  const level = (step: number): number => (step === 0 ? 0 : 55 + step * 40);
  const at = value - 16;
  return hex(level(Math.floor(at / 36)), level(Math.floor(at / 6) % 6), level(at % 6));
}

const grey = (level: number): [number, number, number] => [level, level, level];

const hex = (...parts: readonly [number, number, number]): string =>
  `#${parts.map((part) => (part & 0xff).toString(16).padStart(2, '0')).join('')}`;
