#!/usr/bin/env node
/**
 * What the command `tsvm` is: small, and CommonJS, which Node starts sooner than modules. It runs the program, whose
 * code was compiled when it was built or installed (compile-ahead.ts): a command would take as long again to compile
 * what it needs.
 */
import { readFileSync } from 'node:fs';
import { codeFile, programScript, runScript } from './script.ts';

/** They run, or lead to, most of what there is; the others are done before so much code is read. */
const LARGE: ReadonlySet<string | undefined> = new Set(['vm-process', 'run', 'create', 'clone']);

function compiled(): Buffer | undefined {
  try {
    return readFileSync(codeFile(__dirname, LARGE.has(process.argv[2]) ? 'all' : 'common'));
  } catch {
    return undefined;
  }
}

runScript(__dirname, programScript(__dirname, compiled()));
