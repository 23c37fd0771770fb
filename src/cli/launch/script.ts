/** The bundled program, as a script that V8 may have compiled before. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Script } from 'node:vm';

/** the first digits of the SHA-256 of the program's text, from the bundler (bundle.mjs): V8 only looks at its length */
declare const PROGRAM_ID: string;

/** all of the program, or what every command runs: a fifth of the size */
export type CodeSet = 'all' | 'common';

/** Where the code of a set is kept, in the folder of the bundles. */
export const codeFile = (folder: string, set: CodeSet): string =>
  join(folder, `program-${PROGRAM_ID}-${set}.code`);

const programFile = (folder: string): string => join(folder, 'program.cjs');

/** As Node wraps a CommonJS module; it stays in the first line, so that stack traces have the right ones. */
const wrapped = (source: string): string => `(function (require, __filename, __dirname) {${source}\n})`;

/**
 * @param code that V8 has compiled of it; where it is of another Node, or damaged, `cachedDataRejected` is set, and V8
 * compiles what is needed
 */
export function programScript(folder: string, code?: Buffer): Script {
  const filename = programFile(folder);
  // The bundler writes ASCII: a string of bytes is one of characters.
  const source = readFileSync(filename, 'latin1');
  return new Script(wrapped(source), { filename, ...(code !== undefined && { cachedData: code }) });
}

type Program = (require: (name: string) => unknown, filename: string, dirname: string) => void;

/** Runs the program. Packages that few commands need are in a bundle of their own. */
export function runScript(folder: string, script: Script): void {
  const filename = programFile(folder);
  const nodeRequire = createRequire(filename);
  let packages: Readonly<Record<string, () => unknown>> | undefined;
  const require = (name: string): unknown => {
    if (name.startsWith('node:')) return nodeRequire(name);
    packages ??= nodeRequire('./packages.cjs') as NonNullable<typeof packages>;
    return (packages[name] ?? ((): unknown => nodeRequire(name)))();
  };
  (script.runInThisContext() as Program)(require, filename, folder);
}
