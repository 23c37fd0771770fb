import { type Command, InvalidArgumentError } from 'commander';

/** Takes the exit status that a verb comes to: one of `EXIT`, or that of a command in a guest. */
export type Done = (code: number) => void;

/** Begins a verb: what all of them have in common. */
export function addVerb(
  program: Command,
  name: string,
  summary: string,
  examples: readonly string[],
): Command {
  return program
    .command(name)
    .summary(summary)
    .description(`${summary[0]?.toUpperCase() ?? ''}${summary.slice(1)}.`)
    .option('--debug', 'print the stack trace of an error')
    .allowExcessArguments(false)
    .addHelpText('after', exampleHelp(examples));
}

/** Examples as a section of a help text. */
export function exampleHelp(examples: readonly string[]): string {
  return ['', 'Examples:', ...examples.map((example) => `  ${example}`)].join('\n');
}

/** Makes a parser whose errors say which argument is wrong, as commander wants it. */
export function argument<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
    }
  };
}

/** Parses a whole number from `min` to `max`. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return argument((text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new RangeError(`not a whole number from ${min} to ${max}`);
    }
    return value;
  });
}

/** Takes an option that may be given more than once. */
export function collect(value: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, value];
}
