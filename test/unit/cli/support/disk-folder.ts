import { afterEach, beforeEach, expect } from 'vitest';
import { temporaryFolder } from '../../../support/storage/qemu-img.ts';
import { bundle } from './bundle.ts';
import { type Ended, runProgram } from './run-tsvm.ts';

/** `tsvm disk` in a folder that each test of a file has for itself. */
export type DiskFolder = {
  readonly path: string;
  readonly file: (name: string) => string;
  /** Runs `tsvm disk`. */
  readonly tsvm: (...args: string[]) => Ended;
  /** As {@link tsvm}, where it has to succeed without a word on standard error; returns what it prints. */
  readonly made: (...args: string[]) => string;
  /** As {@link tsvm}, where it has to fail with this status and print nothing; returns what it says. */
  readonly refused: (code: number, ...args: string[]) => string;
};

/** Called once at the top of a test file. */
export function diskFolder(): DiskFolder {
  const program = bundle('../../../../src/cli/main.ts');
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(() => {
    folder = temporaryFolder();
  });
  afterEach(() => folder.remove());
  const tsvm = (...args: string[]): Ended => runProgram(program, ['disk', ...args], folder.path);
  return {
    get path(): string {
      return folder.path;
    },
    file: (name) => folder.file(name),
    tsvm,
    made: (...args) => {
      const { code, stdout, stderr } = tsvm(...args);
      expect(stderr).toBe('');
      expect(code).toBe(0);
      return stdout;
    },
    refused: (code, ...args) => {
      const ended = tsvm(...args);
      expect(ended.stdout).toBe('');
      expect(ended.code).toBe(code);
      return ended.stderr;
    },
  };
}
