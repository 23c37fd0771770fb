/** The command `test` of GRUB, and `[`: comparisons, files, and what joins them. */

/** More than any condition has; what is nested deeper than a stack goes, too. */
const MAX_ARGS = 200;

/** @param isFile whether a path leads to a file */
export async function evaluateTest(
  args: readonly string[],
  isFile: (path: string) => Promise<boolean>,
): Promise<boolean> {
  if (args.length > MAX_ARGS) return false;
  let at = 0;
  const unary: Readonly<Record<string, (value: string) => boolean | Promise<boolean>>> = {
    '-n': (value) => value !== '',
    '-z': (value) => value === '',
    '-f': isFile,
    '-e': isFile,
    '-s': isFile,
    '-d': () => false,
  };
  const term = async (): Promise<boolean> => {
    if (args[at] === '!') {
      at++;
      return !(await term());
    }
    if (args[at] === '(') {
      at++;
      const value = await any();
      at++;
      return value;
    }
    const compare = BINARY[args[at + 1] ?? ''];
    if (compare !== undefined && at + 2 < args.length) {
      const value = compare(args[at]!, args[at + 2]!);
      at += 3;
      return value;
    }
    const check = unary[args[at] ?? ''];
    if (check !== undefined && at + 1 < args.length) {
      const value = await check(args[at + 1]!);
      at += 2;
      return value;
    }
    return (args[at++] ?? '') !== '';
  };
  const all = async (): Promise<boolean> => {
    let value = await term();
    while (args[at] === '-a') {
      at++;
      value = (await term()) && value;
    }
    return value;
  };
  const any = async (): Promise<boolean> => {
    let value = await all();
    while (args[at] === '-o') {
      at++;
      value = (await all()) || value;
    }
    return value;
  };
  return any();
}

const BINARY: Readonly<Record<string, (a: string, b: string) => boolean>> = {
  '=': (a, b) => a === b,
  '==': (a, b) => a === b,
  '!=': (a, b) => a !== b,
  '<': (a, b) => a < b,
  '>': (a, b) => a > b,
  '-eq': (a, b) => Number(a) === Number(b),
  '-ne': (a, b) => Number(a) !== Number(b),
  '-lt': (a, b) => Number(a) < Number(b),
  '-le': (a, b) => Number(a) <= Number(b),
  '-gt': (a, b) => Number(a) > Number(b),
  '-ge': (a, b) => Number(a) >= Number(b),
};
