/** Intel's ASL compiler and disassembler (Debian: acpica-tools), an independent reader of what tsvm builds. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

function installed(): boolean {
  try {
    execFileSync('iasl', ['-v'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

export const iaslMissing = !installed();
if (iaslMissing) console.warn('skipped: iasl is not installed (Debian package acpica-tools)');

function inDirectory<T>(work: (directory: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), 'tsvm-iasl-'));
  try {
    return work(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function run(args: string[], cwd: string): string {
  try {
    return execFileSync('iasl', args, { cwd, encoding: 'utf8', stdio: 'pipe' });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`iasl ${args.join(' ')} failed:\n${stdout}${stderr}`, { cause: error });
  }
}

/** A table as ASL, or as the text of its fields for one that is data. @throws Error with what iasl says */
export function disassemble(table: Uint8Array): string {
  return inDirectory((cwd) => {
    writeFileSync(join(cwd, 'table.aml'), table);
    run(['-d', 'table.aml'], cwd);
    return readFileSync(join(cwd, 'table.dsl'), 'utf8');
  });
}

/** Compiles ASL or a data table; the messages have warnings and remarks. @throws Error on compile errors */
export function compile(source: string): { aml: Uint8Array; messages: string } {
  return inDirectory((cwd) => {
    writeFileSync(join(cwd, 'source.dsl'), source);
    // -oa: no optimizations, so that the bytes are what the source says
    const messages = run(['-oa', '-p', 'out', 'source.dsl'], cwd);
    return { aml: new Uint8Array(readFileSync(join(cwd, 'out.aml'))), messages };
  });
}

/** The terms of a definition block with this content. */
export function compileTerms(asl: string): number[] {
  const headerSize = 36;
  const { aml } = compile(`DefinitionBlock ("", "DSDT", 2, "TSVM", "TSVM", 1) {\n${asl}\n}`);
  return [...aml.subarray(headerSize)];
}

/** A field's value in the text of a disassembled data table. */
export function fieldOf(text: string, label: string, nth = 0): string | undefined {
  const values = [...text.matchAll(/^(?:\[[^\]]*\])? *(.*?) : (.*)$/gm)].filter(
    (match) => match[1] === label,
  );
  return values[nth]?.[2];
}
